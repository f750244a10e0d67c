"""A job's whole way, with the API server's own controllers at work and a kubelet that is played."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.integration import kubelet
from tests.integration.controlplane import ControlPlane, wait_until
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

Fate = Callable[[str], dict[str, Any]]
"""Takes a stage, returns the status that its pod gets."""


def all_well(stage: str) -> dict[str, Any]:
    if stage == "serve":
        return kubelet.serving()
    return kubelet.completed(stage, gpu_seconds=12.5 if stage == "train" else 0)


def live(place: Namespace, reason: str, fate: Fate = all_well) -> list[str]:
    """Report on every new pod until Ready has the reason; return the stages in their order."""
    known: set[str] = set()
    stages: list[str] = []

    def reached() -> bool:
        for pod in place.items("pods"):
            if pod["metadata"]["uid"] not in known:
                known.add(pod["metadata"]["uid"])
                stages.append(kubelet.stage_of(pod))
                kubelet.report(place, pod, fate(stages[-1]))
        return place.reason() == reason

    wait_until(f"Ready has reason {reason}", reached)
    return stages


def test_a_job_goes_all_the_way_and_then_rests(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    assert live(place, "Serving") == ["stage", "train", "merge", "serve"]
    operator.settled()
    job = place.job()
    assert job["status"]["endpoint"] == f"http://demo-serve.{place.name}.svc:8000/v1"
    assert operator.metric("controller_runtime_reconcile_errors_total") == 0
    for stage in ("stage", "train", "merge"):
        assert operator.metric("finetune_stage_duration_seconds_count", stage=stage) == 1
    assert operator.metric("finetune_gpu_seconds_total") == 12
    assert operator.metric("finetune_jobs", reason="Serving") == 1

    writes = operator.writes()
    looks = operator.metric("controller_runtime_reconcile_total")
    labels = {"metadata": {"labels": {"a": "b"}}}
    labelled = place.plane.merge(place.path("finetunejobs", "demo"), labels)
    wait_until(
        "the operator looked again",
        lambda: operator.metric("controller_runtime_reconcile_total") > looks,
    )
    operator.settled()
    assert operator.writes() == writes
    version = place.job()["metadata"]["resourceVersion"]
    assert version == labelled["metadata"]["resourceVersion"]


def test_what_a_job_made_goes_with_it(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    live(place, "Serving")
    place.plane.delete(place.path("finetunejobs", "demo"))
    kinds = ("pods", "jobs", "deployments", "services", "networkpolicies")
    wait_until("everything is collected", lambda: not any(place.items(kind) for kind in kinds))
    operator.settled()
    assert not any(place.items(kind) for kind in kinds)
    assert operator.metric("finetune_jobs") == 0


def test_a_stage_that_fails_says_why(operator: OperatorProcess, place: Namespace) -> None:
    def fate(stage: str) -> dict[str, Any]:
        return kubelet.failed(stage, code=65, reason="DatasetInvalid", message="row 7 is empty")

    place.submit()
    assert live(place, "DatasetInvalid", fate) == ["stage"]
    operator.settled()
    assert operator.metric("controller_runtime_reconcile_errors_total") == 0
    ready = next(c for c in place.job()["status"]["conditions"] if c["type"] == "Ready")
    assert "row 7 is empty" in ready["message"]


def test_what_somebody_changes_is_put_right_and_one_event_says_so(
    operator: OperatorProcess, place: Namespace
) -> None:
    def told() -> dict[str, int]:
        return {
            event["note"]: event.get("series", {}).get("count", 1)
            for event in place.items("events")
            if event["reason"] == "ChildPutRight"
        }

    def look_again() -> None:
        looks = operator.metric("controller_runtime_reconcile_total")
        labels = {"metadata": {"labels": {"looks": str(looks)}}}
        place.plane.merge(place.path("finetunejobs", "demo"), labels)
        wait_until(
            "the operator looks again",
            lambda: operator.metric("controller_runtime_reconcile_total") > looks,
        )
        operator.settled()

    place.submit()
    live(place, "Serving")
    look_again()
    (deployment,), (service,) = place.items("deployments"), place.items("services")
    by_hand = "?fieldManager=kubectl-edit"
    path = place.path("deployments", deployment["metadata"]["name"])
    place.plane.merge(path, {"metadata": {"annotations": {"note": "nobody minds"}}})
    place.plane.merge(path + by_hand, {"spec": {"progressDeadlineSeconds": 7}})
    wait_until(
        "the Deployment is as it was",
        lambda: place.items("deployments")[0]["spec"] == deployment["spec"],
    )
    # Services are not watched: the next look, or a resync, finds what became of one.
    selector = {"spec": {"selector": {"finetune.dev/build": "another"}}}
    place.plane.merge(place.path("services", "demo-serve") + by_hand, selector)
    look_again()
    assert place.items("services")[0]["spec"] == service["spec"]
    place.plane.delete(path)
    live(place, "Serving")
    expected = {
        f"Deployment {deployment['metadata']['name']} was changed by kubectl-edit; it is put right",
        "Service demo-serve was changed by kubectl-edit; it is put right",
        f"Deployment {deployment['metadata']['name']} was deleted by somebody else; it is made "
        "again",
    }
    wait_until("all is told", lambda: set(told()) == expected)
    for _ in range(3):
        look_again()
    assert told() == dict.fromkeys(expected, 1)


def test_a_quota_is_named_and_its_end_is_noticed(
    operator: OperatorProcess, place: Namespace, controller_manager: ControlPlane
) -> None:
    quotas = f"/api/v1/namespaces/{place.name}/resourcequotas"
    place.plane.post(
        quotas,
        {"metadata": {"name": "none"}, "spec": {"hard": {"persistentvolumeclaims": "0"}}},
    )
    wait_until(
        "the quota counts",
        lambda: "hard" in controller_manager.get(f"{quotas}/none").get("status", {}),
    )
    place.submit()
    wait_until("the quota is named", lambda: place.reason() == "QuotaExceeded")
    place.plane.delete(f"{quotas}/none")
    place.staged()
