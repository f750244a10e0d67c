"""A train Job in a queue: suspended, admitted, preempted and admitted again by another controller.

The tests send the writes that Kueue makes to a Job: ``suspend``, and the node selector of a flavor
in the pod template. The Job controller is real. ``tests/kueue`` tests with a real Kueue.
"""

from typing import Any

import pytest
from tests.fakes import kubelet
from tests.support.api_server.controlplane import wait_until
from tests.support.api_server.namespace import Namespace, train_has_run
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

QUEUE = {"queueName": "gpu", "workloadPriorityClassName": "research"}
LABELS = {"kueue.x-k8s.io/queue-name": "gpu", "kueue.x-k8s.io/priority-class": "research"}
FLAVOR = {"flavor": "on-demand"}


def kueue(place: Namespace, job: dict[str, Any], change: dict[str, Any]) -> None:
    """Write to a Job like Kueue; a suspended Job also loses its start time."""
    path = place.path("jobs", job["metadata"]["name"])
    media = "application/merge-patch+json"
    place.plane.request("PATCH", f"{path}?fieldManager=kueue", {"spec": change}, media)
    if change["suspend"]:
        wait_until("the Job controller has suspended the Job", lambda: _is_suspended(place, path))
        status = {"status": {"startTime": None}}
        place.plane.request("PATCH", f"{path}/status?fieldManager=kueue", status, media)


def _is_suspended(place: Namespace, path: str) -> bool:
    found = place.plane.get(path)["status"].get("conditions", [])
    return any((each["type"], each["status"]) == ("Suspended", "True") for each in found)


def train_jobs(place: Namespace) -> list[dict[str, Any]]:
    return [job for job in place.items("jobs") if kubelet.stage_of(job) == "train"]


def complete_prepare(place: Namespace) -> None:
    def prepared() -> bool:
        for pod in place.items("pods"):
            if kubelet.stage_of(pod) == "prepare" and pod["status"]["phase"] == "Pending":
                kubelet.report(place, pod, kubelet.completed("prepare"))
        return bool(train_jobs(place))

    wait_until("a train Job exists", prepared)


def operator_writes(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Return operation and subresource of each managedFields entry of the operator."""
    return [
        (entry["operation"], entry.get("subresource", ""))
        for entry in job["metadata"]["managedFields"]
        if entry["manager"] == "finetune-operator"
    ]


def test_a_job_is_queued_preempted_and_resumed_by_its_queue(
    operator: OperatorProcess, place: Namespace
) -> None:
    place.submit(spec=QUEUE)
    complete_prepare(place)
    (job,) = train_jobs(place)
    kueue(place, job, {"suspend": True})
    assert LABELS.items() <= job["metadata"]["labels"].items()
    for each in (*place.items("jobs"), *place.items("pods"), job["spec"]["template"]):
        own = each["metadata"]["labels"]
        is_it = each["metadata"].get("name") == job["metadata"]["name"]
        assert is_it or not any(key.startswith("kueue") for key in own)

    wait_until("the job is queued", lambda: place.reason() == "Queued")
    assert place.condition("Reconciling")["status"] == "True"
    assert place.condition("Suspended")["reason"] == "Queued"
    assert "queue gpu" in place.condition("Ready")["message"]

    template = {"spec": {"nodeSelector": FLAVOR}}
    kueue(place, job, {"suspend": False, "template": template})
    pod = _pod(place)
    kubelet.report(place, pod, kubelet.running())
    # An admitted Job has the reason Training before its pod runs.
    wait_until("the operator has seen the pod run", lambda: train_has_run(place.job()))
    wait_until("the job trains", lambda: place.reason() == "Training")
    operator.settled()

    kueue(place, job, {"suspend": True})
    wait_until("the job is preempted", lambda: place.reason() == "Preempted")
    assert place.condition("Reconciling")["status"] == "True"
    assert place.condition("Suspended")["reason"] == "Preempted"
    assert place.condition("Stalled") == {}

    kueue(place, job, {"suspend": False})
    again = _pod(place, other_than=pod)
    assert again["spec"]["nodeSelector"] == FLAVOR
    kubelet.report(place, again, kubelet.running())
    wait_until("the job trains again", lambda: place.reason() == "Training")
    assert place.condition("Suspended")["status"] == "False"

    (after,) = train_jobs(place)
    assert after["metadata"]["uid"] == job["metadata"]["uid"]
    assert operator_writes(after) == [("Update", "")]
    assert after["metadata"]["managedFields"] != job["metadata"]["managedFields"]
    operator.settled()
    events = [each for each in place.items("events") if each["regarding"]["kind"] == "FineTuneJob"]
    events.sort(key=lambda event: str(event["eventTime"]))
    reasons = [event["reason"] for event in events]
    assert reasons == ["DataReady", "Queued", "Preempted"]
    assert operator.failures() == []


def _pod(place: Namespace, other_than: dict[str, Any] | None = None) -> dict[str, Any]:
    """Wait for the train Job's pod and return it."""
    found: list[dict[str, Any]] = []

    def has_pod() -> bool:
        found[:] = [
            pod
            for pod in place.items("pods")
            if kubelet.stage_of(pod) == "train"
            and (other_than is None or pod["metadata"]["uid"] != other_than["metadata"]["uid"])
            and not pod["metadata"].get("deletionTimestamp")
        ]
        return bool(found)

    wait_until("the train Job has a pod", has_pod)
    return found[0]
