"""The operator process on a real API server.

There is no kubelet, so a job stays in its first stage. The tests cover the requests of the operator
and its behavior with objects of other clients.
"""

import itertools
import json
import signal
from pathlib import Path

from tests.support.api_server import operatorprocess
from tests.support.api_server.controlplane import (
    PATIENCE_SECONDS,
    ApiError,
    ControlPlane,
    wait_until,
)
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess
from tests.support.busy_machine import fastest

SHORT_RETRY = "from finetune_operator import delays; delays.REJECTED = 2.0"
"""Shortens the delay after a rejected write."""
END_SECONDS = 2.0
"""From SIGTERM to the end of the process."""
FIELDS_OF_USERS = ("spec", "labels", "annotations", "finalizers", "ownerReferences")


def test_a_job_that_exists_before_the_operator_is_reconciled(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    place.submit()
    with operatorprocess.operator(control_plane, tmp_path):
        place.wait_until_preparing()


def test_kopf_run_starts_the_operator(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    command = ["-m", "kopf", "run", "-m", "finetune_operator.app"]
    namespaced = {**CONFIG, "watchNamespaces": [place.name]}
    with operatorprocess.starting(
        control_plane, tmp_path, namespaced, command=[*command, "-A"]
    ) as wrong:
        assert wrong.process.wait(PATIENCE_SECONDS) == 1
    assert f"Run kopf with: -n {place.name}" in wrong.log.read_text()
    with operatorprocess.operator(
        control_plane, tmp_path, namespaced, command=[*command, "-n", place.name]
    ) as running:
        place.submit()
        place.wait_until_preparing()
        assert running.stop()[0] == 0


def test_sigterm_ends_the_process_at_once_with_code_0(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    numbers = itertools.count()

    def seconds_to_the_end() -> float:
        name = f"demo-{next(numbers)}"
        with operatorprocess.operator(control_plane, tmp_path) as operator:
            place.submit(name)
            place.wait_until_preparing(name)
            code, seconds = operator.stop()
        assert code == 0
        lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
        assert lines[-1]["message"] == "stopped"
        assert [line for line in lines if line["level"] in ("warning", "error")] == []
        return seconds

    assert fastest(seconds_to_the_end, limit=END_SECONDS) < END_SECONDS


def test_sigterm_during_startup_ends_the_process_with_code_0(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    def seconds_to_the_end() -> float:
        with operatorprocess.starting(control_plane, tmp_path, forked=False) as early:
            wait_until("the process handles SIGTERM", lambda: _handles_sigterm(early.process.pid))
            code, seconds = early.stop()
        assert (code, early.log.read_text().count("Traceback")) == (0, 0)
        return seconds

    assert fastest(seconds_to_the_end, limit=END_SECONDS) < END_SECONDS


def test_only_the_status_of_a_job_is_written(operator: OperatorProcess, place: Namespace) -> None:
    before = place.submit(labels={"team": "a"}, annotations={"note": "mine"})
    place.wait_until_preparing()
    after = place.job()
    assert after["metadata"]["generation"] == 1
    assert after["spec"] == before["spec"]
    for field in FIELDS_OF_USERS[1:]:
        assert after["metadata"].get(field) == before["metadata"].get(field)
    ours = [
        entry
        for entry in after["metadata"]["managedFields"]
        if entry["manager"] == "finetune-operator"
    ]
    assert [(entry["subresource"], list(entry["fieldsV1"])) for entry in ours] == [
        ("status", ["f:status"])
    ]


def test_children_have_owner_and_label(operator: OperatorProcess, place: Namespace) -> None:
    uid = place.submit()["metadata"]["uid"]
    place.wait_until_preparing()
    children = [
        each
        for kind in ("jobs", "configmaps", "persistentvolumeclaims", "networkpolicies")
        for each in place.items(kind)
        if each["metadata"]["name"] != "kube-root-ca.crt"
    ]
    assert len(children) >= 4
    for each in children:
        (reference,) = each["metadata"]["ownerReferences"]
        assert (reference["uid"], reference["controller"]) == (uid, True)
        assert each["metadata"]["labels"]["finetune.dev/job"] == "demo"
        assert "annotations" not in each["metadata"] or not any(
            "kopf" in key for key in each["metadata"]["annotations"]
        )


def test_a_status_written_by_another_client_is_corrected(
    operator: OperatorProcess, place: Namespace
) -> None:
    place.submit()
    place.wait_until_preparing()
    place.wait_until_running()
    operator.settled()
    status = place.job()["status"]
    wrong = [{**condition, "reason": "Nonsense"} for condition in status["conditions"]]
    place.plane.merge(
        place.path("finetunejobs", "demo") + "/status", {"status": {"conditions": wrong}}
    )
    place.plane.merge(place.path("finetunejobs", "demo"), {"metadata": {"labels": {"a": "b"}}})
    wait_until("the status is corrected", lambda: place.reason() == "Preparing")
    assert place.job()["status"] == status


def test_a_conflict_with_another_writer_is_no_error(
    operator: OperatorProcess, place: Namespace
) -> None:
    """Labels that change during a reconcile cause status writes to fail their precondition."""
    place.submit()
    for number in range(60):
        place.plane.merge(
            place.path("finetunejobs", "demo"), {"metadata": {"labels": {"n": str(number)}}}
        )
    place.wait_until_preparing()
    assert operator.failures() == []
    assert place.job()["metadata"]["labels"] == {"n": "59"}
    assert len(place.items("jobs")) == 1


def test_a_name_conflict_is_reported_until_the_other_object_is_deleted(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    foreign = place.plane.post(
        place.path("networkpolicies"),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "demo-prepare"},
            "spec": {"podSelector": {}},
        },
    )
    with operatorprocess.operator(control_plane, tmp_path, prelude=SHORT_RETRY) as operator:
        place.submit()
        wait_until("the conflict is reported", lambda: place.reason() == "NameConflict")
        assert place.condition("Stalled")["reason"] == "NameConflict"
        operator.settled()
        path = place.path("networkpolicies", "demo-prepare")
        present = place.plane.get(path)
        assert present["metadata"]["resourceVersion"] == foreign["metadata"]["resourceVersion"]
        message = place.condition("Ready")["message"]
        assert message.startswith("NetworkPolicy demo-prepare exists and is not owned by this")
        assert place.items("jobs") == []

        place.plane.delete(path)
        place.wait_until_preparing()
        assert place.condition("Stalled") == {}
        (owner,) = place.plane.get(path)["metadata"]["ownerReferences"]
        assert owner["uid"] == place.job()["metadata"]["uid"]


def test_children_of_a_deleted_job_with_the_same_name_are_not_adopted(
    operator: OperatorProcess, place: Namespace
) -> None:
    """Children of a deleted job keep their owner until they are garbage collected."""
    first = place.submit()
    place.wait_until_preparing()
    place.plane.delete(place.path("finetunejobs", "demo"))
    place.submit()
    wait_until(
        "the second job waits for the deletion of the first job's children",
        lambda: place.reason() != "",
    )
    operator.settled()
    (job,) = place.items("jobs")
    assert job["metadata"]["ownerReferences"][0]["uid"] == first["metadata"]["uid"]


def test_a_resync_makes_no_writes(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    place.wait_until_preparing()
    place.wait_until_running()
    operator.settled()
    reconciles = operator.metric("controller_runtime_reconcile_total")
    writes, versions = operator.writes(), place.versions()
    # A changed label of a child enqueues the job even though the operator does not set the label.
    (job,) = place.items("jobs")
    again = {"metadata": {"labels": {"finetune.dev/again": "1"}}}
    place.plane.merge(place.path("jobs", job["metadata"]["name"]), again)
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()
    assert operator.writes() == writes
    changed = {key for key, version in place.versions().items() if versions.get(key) != version}
    assert changed == {f"jobs/{job['metadata']['name']}"}


def test_a_status_write_does_not_enqueue_its_job(
    operator: OperatorProcess, place: Namespace
) -> None:
    for name in ("demo", "fence"):
        place.submit(name, suspend=True)
    for name in ("demo", "fence"):
        wait_until(f"{name} is reconciled", lambda name=name: place.reason(name) != "")  # type: ignore[misc]
    operator.settled()
    adds = operator.metric("workqueue_adds_total")
    reconciles = operator.metric("controller_runtime_reconcile_total")
    place.plane.merge(
        place.path("finetunejobs", "demo") + "/status", {"status": {"endpoint": "http://x"}}
    )
    # Events of one watch are ordered, so the event of the fence is the later one.
    place.plane.merge(place.path("finetunejobs", "fence"), {"metadata": {"labels": {"a": "b"}}})
    wait_until(
        "the fence is reconciled",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()
    assert operator.metric("workqueue_adds_total") == adds + 1
    assert place.job()["status"]["endpoint"] == "http://x"


def test_a_restart_changes_nothing(
    control_plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    place.submit()
    with operatorprocess.operator(control_plane, tmp_path) as first:
        place.wait_until_preparing()
        place.wait_until_running()
        first.settled()
    versions = place.versions()
    with operatorprocess.operator(control_plane, tmp_path) as second:
        second.settled()
        assert second.metric("controller_runtime_reconcile_total") >= 1
        assert place.versions() == versions


def test_a_deleted_child_enqueues_its_job(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    place.wait_until_preparing()
    operator.settled()
    reconciles = operator.metric("controller_runtime_reconcile_total")
    (claim,) = place.items("persistentvolumeclaims")
    place.plane.delete(place.path("persistentvolumeclaims", claim["metadata"]["name"]))
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )


def test_the_http_server_serves_probes_and_metrics(
    operator: OperatorProcess, place: Namespace
) -> None:
    place.submit()
    place.wait_until_preparing()
    assert operator.get("/healthz") == (200, "ok")
    assert operator.get("/readyz") == (200, "ok")
    assert operator.get("/nowhere")[0] == 404
    text = operator.get("/metrics")[1]
    for name in (
        "controller_runtime_reconcile_total",
        "controller_runtime_reconcile_time_seconds_bucket",
        "controller_runtime_active_workers",
        "controller_runtime_max_concurrent_reconciles",
        "workqueue_depth",
        "workqueue_adds_total",
        "workqueue_queue_duration_seconds_count",
        "workqueue_work_duration_seconds_count",
        "workqueue_longest_running_processor_seconds",
        "rest_client_requests_total",
        "rest_client_request_duration_seconds_count",
        "process_resident_memory_bytes",
    ):
        assert f"\n{name}{{" in text or f"\n{name} " in text, name
    assert operator.metric("finetune_jobs", reason="Preparing") >= 1
    assert "demo" not in text


def test_an_event_is_recorded_for_the_job(operator: OperatorProcess, place: Namespace) -> None:
    uid = place.submit(spec={"suspend": True})["metadata"]["uid"]
    wait_until("the event is recorded", lambda: bool(place.items("events")))
    (event,) = place.items("events")
    assert event["regarding"]["uid"] == uid
    assert (event["reason"], event["type"]) == ("SuspendedByUser", "Normal")
    assert event["reportingController"] == "finetune.dev/finetune-operator"


def test_a_port_in_use_ends_the_process(
    operator: OperatorProcess, control_plane: ControlPlane, tmp_path: Path
) -> None:
    with operatorprocess.starting(
        control_plane, tmp_path, CONFIG, port=operator.metrics_port
    ) as second:
        assert second.process.wait(PATIENCE_SECONDS) == 1


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def _served(plane: ControlPlane) -> bool:
    try:
        plane.get("/apis/finetune.dev/v1alpha1")
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True
