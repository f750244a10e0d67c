"""Jobs that a FineTuneEndpoint serves, with a real operator and API server."""

from typing import Any

import pytest
from tests.fakes import kubelet
from tests.fakes.gate_server import FakeGate
from tests.integration.test_endpoints import (
    _gate,  # noqa: F401  (pytest finds fixtures by name)
    _signing,  # noqa: F401
    create,
    until_serving,
    wanted,
)
from tests.integration.test_operator_with_controllers import all_complete
from tests.support.api_server.controlplane import wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

SHARED: dict[str, Any] = {"mode": "shared", "endpointRef": {"name": "shared"}}
OF_ENDPOINT = {"finetune.dev/endpoint": "shared", "finetune.dev/stage": "serve-shared"}
OF_JOB, STAGE = "finetune.dev/job", "finetune.dev/stage"


def run_jobs(place: Namespace, gate: FakeGate, **reasons: str) -> list[str]:
    """Report on the pods of jobs until Ready of each job has its reason; return their stages."""
    reported, stages = set[str](), list[str]()

    def reached() -> bool:
        gate.wanted = wanted(place)
        for pod in place.items("pods"):
            uid, labels = pod["metadata"]["uid"], pod["metadata"]["labels"]
            if OF_JOB not in labels or uid in reported:
                continue
            reported.add(uid)
            stages.append(kubelet.stage_of(pod))
            done = kubelet.published(pod) if stages[-1] == "publish" else all_complete(stages[-1])
            kubelet.report(place, pod, done)
        return all(reason_of(place, name) == reason for name, reason in reasons.items())

    wait_until(f"Ready has the reasons {reasons}", reached)
    return stages


def reason_of(place: Namespace, name: str) -> str:
    conditions = place.job(name).get("status", {}).get("conditions", [])
    return next((str(each["reason"]) for each in conditions if each["type"] == "Ready"), "")


def selector(place: Namespace, name: str) -> dict[str, str]:
    found: dict[str, str] = place.plane.get(place.path("services", f"{name}-serve"))["spec"][
        "selector"
    ]
    return found


def folders(place: Namespace) -> list[dict[str, Any]]:
    endpoint = place.plane.get(place.path("finetuneendpoints", "shared"))
    return list(endpoint["status"]["folders"])


def pruning(place: Namespace, kind: str) -> list[dict[str, Any]]:
    return [each for each in place.items(kind) if each["metadata"]["labels"].get(STAGE) == "prune"]


def removed(place: Namespace) -> list[str]:
    """Complete the pods that remove folders; return these folders."""
    paths = []
    for pod in pruning(place, "pods"):
        (container,) = pod["spec"]["containers"]
        paths.append(container["command"][-1])
        kubelet.report(place, pod, {"phase": "Succeeded"})
    return paths


def test_two_jobs_share_an_endpoint(
    place: Namespace, signing: OperatorProcess, gate: FakeGate
) -> None:
    for name in ("one", "two"):
        place.submit(name, spec={"serving": SHARED})
    wait_until("it is missing", lambda: reason_of(place, "one") == "EndpointNotFound")
    assert not place.items("jobs")
    create(place)
    until_serving(place, gate)
    stages = run_jobs(place, gate, one="Serving", two="Serving")
    assert sorted(stages) == ["prepare"] * 2 + ["publish"] * 2 + ["train"] * 2
    assert {each.name for each in wanted(place).names} == {"one", "two"}
    for name in ("one", "two"):
        assert selector(place, name) == OF_ENDPOINT
        assert place.job(name)["status"]["verification"]["outcome"] == "Verified"
    # The endpoint finds a fault in one of them after a restart.
    gate.boot, gate.states = "boot-2", {"one": "Failed"}
    run_jobs(place, gate, one="VerificationFailed", two="Serving")
    assert "a planted fault" in place.job("one")["status"]["conditions"][0]["message"]
    one = place.job("one")
    place.plane.delete(place.path("finetunejobs", "one"))
    wait_until("its name is gone", lambda: [each.name for each in wanted(place).names] == ["two"])
    uid = one["metadata"]["uid"]
    assert {each["uid"] for each in folders(place)} == {uid, place.job("two")["metadata"]["uid"]}
    wait_until("its folder is removed", lambda: removed(place) == [f"/jobs/{uid}"])
    wait_until("it is listed no more", lambda: [each["job"] for each in folders(place)] == ["two"])
    wait_until("nothing is left of it", lambda: not pruning(place, "jobs"))
    assert signing.failures() == []


def test_a_job_moves_to_an_endpoint_and_back(
    place: Namespace, signing: OperatorProcess, gate: FakeGate
) -> None:
    create(place)
    until_serving(place, gate)
    place.submit()
    run_jobs(place, gate, demo="Serving")
    build, path = place.job()["status"]["build"], place.path("finetunejobs", "demo")
    assert selector(place, "demo")["finetune.dev/build"] == build
    place.plane.merge(path, {"spec": {"serving": SHARED}})
    wait_until("it is seen", lambda: reason_of(place, "demo") != "Serving")
    run_jobs(place, gate, demo="Serving")
    ran = sorted(each["metadata"]["labels"][STAGE] for each in of_job(place, "jobs"))
    assert ran == ["merge", "prepare", "publish", "train"], "nothing is repeated"
    assert selector(place, "demo") == OF_ENDPOINT
    wait_until("its pods are gone", lambda: not of_job(place, "deployments"))
    place.plane.merge(path, {"spec": {"serving": {"mode": None, "endpointRef": None}}})
    wait_until("it is seen", lambda: reason_of(place, "demo") != "Serving")
    assert place.job()["status"]["sharedModel"]["endpoint"] == "shared"
    run_jobs(place, gate, demo="Serving")
    assert selector(place, "demo")["finetune.dev/build"] == build
    assert "sharedModel" not in place.job()["status"]
    wait_until("the endpoint serves nothing", lambda: not wanted(place).names)
    assert signing.failures() == []


def of_job(place: Namespace, kind: str) -> list[dict[str, Any]]:
    return [each for each in place.items(kind) if OF_JOB in each["metadata"].get("labels", {})]
