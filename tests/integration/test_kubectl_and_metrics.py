"""kubectl output, events, kstatus and metrics of a serving job on a real API server."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.test_operator_with_controllers import run_stages
from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.gitops import kstatus

FIELDS_OF_USERS = ("labels", "annotations", "finalizers", "ownerReferences")
NAMES = re.compile(r"^(controller_runtime|workqueue|rest_client|finetune|leader_election|process)_")


@pytest.fixture(scope="module")
def served(
    controller_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OperatorProcess, Namespace, dict[str, Any]]]:
    """An operator, the namespace of a serving job, and the job as it was submitted."""
    place = Namespace(controller_manager, controller_manager.namespace("kubectl-and-metrics"))
    folder = tmp_path_factory.mktemp("operator")
    with operatorprocess.operator(controller_manager, folder) as operator:
        before = place.submit(labels={"team": "a"}, annotations={"note": "mine"})
        run_stages(place, "Serving")
        operator.settled()
        yield operator, place, before
        controller_manager.delete(place.path("finetunejobs"))


Served = tuple[OperatorProcess, Namespace, dict[str, Any]]


def kubectl(place: Namespace, *words: str) -> str:
    """Run kubectl in the namespace; return its standard output."""
    command = [str(place.plane.assets / "kubectl"), f"--kubeconfig={place.plane.kubeconfig}"]
    done = subprocess.run(
        [*command, f"--namespace={place.name}", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kubectl_shows_the_job_in_one_line(served: Served) -> None:
    _, place, _ = served
    head, line = kubectl(place, "get", "ftj").splitlines()
    assert head.split() == ["NAME", "READY", "STATE", "SERVING", "PROGRESS", "ETA", "LOSS", "AGE"]
    assert line.split()[:3] == ["demo", "True", "Serving"]


def test_kubectl_waits_by_condition(served: Served) -> None:
    _, place, _ = served
    for condition in ("Ready", "Finished"):
        said = kubectl(place, "wait", f"--for=condition={condition}", "ftj/demo", "--timeout=300s")
        assert said.strip() == "finetunejob.finetune.dev/demo condition met"


def test_kubectl_describe_shows_an_event_for_each_completed_stage(served: Served) -> None:
    _, place, _ = served
    text = kubectl(place, "describe", "ftj", "demo")
    events = text[text.index("Events:") :]
    reasons = "|".join(("Preparing", "DataReady", "Training", "Trained", "Merged", "Serving"))
    found = re.findall(rf"^\s+Normal\s+({reasons})\s", events, re.M)
    # kubectl sorts by a field that events of this API do not have.
    assert sorted(found) == ["DataReady", "Merged", "Serving", "Trained"], events


def test_a_resync_repeats_no_event(served: Served) -> None:
    operator, place, _ = served

    def events() -> dict[str, Any]:
        """Return the events of the operator; controllers write others at any time."""
        return {
            each["metadata"]["name"]: each.get("series")
            for each in place.items("events")
            if each["regarding"]["kind"] == "FineTuneJob"
        }

    before = events()
    reconciles = operator.metric("controller_runtime_reconcile_total")
    place.plane.merge(place.path("finetunejobs", "demo"), {"metadata": {"labels": {"again": "1"}}})
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()
    assert events() == before
    place.plane.merge(place.path("finetunejobs", "demo"), {"metadata": {"labels": {"again": None}}})


def test_the_operator_wrote_only_the_status(served: Served) -> None:
    _, place, before = served
    after = place.job()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == 1
    for field in FIELDS_OF_USERS:
        assert after["metadata"].get(field) == before["metadata"].get(field)
    ours = [
        (entry["subresource"], list(entry["fieldsV1"]))
        for entry in after["metadata"]["managedFields"]
        if entry["manager"] == "finetune-operator"
    ]
    assert ours == [("status", ["f:status"])]


def test_kstatus_of_a_serving_job_is_current_and_of_a_new_one_in_progress(served: Served) -> None:
    _, place, before = served
    assert before["status"] == {"observedGeneration": -1}
    assert (kstatus.of(before), kstatus.of(place.job())) == ("InProgress", "Current")


def test_promtool_accepts_the_metrics(served: Served) -> None:
    operator, _, _ = served
    promtool = shutil.which("promtool", path=os.defpath + os.pathsep + os.environ["PATH"])
    assert promtool, "promtool is missing: apt-get install prometheus"
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=operator.get("/metrics")[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_metric_labels_are_those_of_controller_runtime(served: Served) -> None:
    operator, place, _ = served
    text = operator.get("/metrics")[1]
    assert operator.metric("workqueue_adds_total", name="finetunejob", controller="finetunejob") > 0
    assert operator.metric("rest_client_requests_total", method="GET", code="200") > 0
    host = place.plane.server.removeprefix("https://")
    assert f'host="{host}"' in text
    assert operator.metric("finetune_jobs", job_namespace=place.name, reason="Serving") == 1
    assert (
        operator.metric(
            "finetune_stage_outcomes_total",
            job_namespace=place.name,
            stage="train",
            outcome="Completed",
        )
        == 1
    )
    assert operator.metric("finetune_gpu_seconds_total", purpose="training") == 12
    assert "demo" not in text
    assert [line for line in text.splitlines() if line[0] != "#" and not NAMES.match(line)] == []
