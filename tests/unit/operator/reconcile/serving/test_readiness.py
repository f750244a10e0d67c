"""When a build has failed, since when a pod wants a GPU, and how long an endpoint is down."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes.apiserver import Cluster

from finetune_api.contracts.result import Result
from finetune_operator.objects.index import index
from finetune_operator.reconcile.serving import readiness

START = datetime(2030, 1, 1, tzinfo=UTC)


def stamp(seconds: int) -> str:
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    *,
    scheduled: int | None = None,
    message: str | None = None,
    created: int = 0,
    containers: Any = (),
    devices: Any = ("nvidia.com/gpu",),
) -> dict[str, Any]:
    conditions = []
    if scheduled is not None:
        status = "True" if message is None else "False"
        conditions = [
            {
                "type": "PodScheduled",
                "status": status,
                "message": message or "",
                "lastTransitionTime": stamp(scheduled),
            }
        ]
    limits = dict.fromkeys(devices, 1)
    return {
        "metadata": {"name": "p", "creationTimestamp": stamp(created)},
        "spec": {"containers": [{"resources": {"limits": limits}}]},
        "status": {"conditions": conditions, "containerStatuses": [*containers]},
    }


def deployment(*conditions: Any, observed: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": "d", "generation": 1},
        "spec": {"progressDeadlineSeconds": 60},
        "status": {"observedGeneration": observed, "conditions": [*conditions]},
    }


def condition(type_: str, status: str, at: int, reason: str = "") -> dict[str, Any]:
    return {"type": type_, "status": status, "lastTransitionTime": stamp(at), "reason": reason}


OVERDUE = condition("Progressing", "False", 0, "ProgressDeadlineExceeded")


@pytest.mark.parametrize(
    ("each", "since"),
    [
        (pod(), None),
        (pod(scheduled=1), None),
        (pod(scheduled=1, message="0/1 nodes: 1 Insufficient nvidia.com/gpu."), 1),
        (pod(scheduled=1, message="0/1 nodes: 1 Insufficient cpu."), None),
        (pod(scheduled=1, message="1 Insufficient nvidia.com/gpu.", devices=()), None),
        (pod(scheduled=1, message="1 Insufficient b.io/x.", devices=("a.io/x", "b.io/x")), 1),
    ],
)
def test_a_pod_wants_a_gpu_since_the_scheduler_finds_none(each: Any, since: int | None) -> None:
    expected = None if since is None else START + timedelta(seconds=since)
    assert readiness.gpu_wanted_since(each) == expected


def crashing(restarts: int, end: Any, reason: str = "CrashLoopBackOff") -> dict[str, Any]:
    return {
        "name": "vllm",
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": end} if end else {},
    }


def ended(code: int, message: str = "", *, where: str = "state") -> dict[str, Any]:
    return {"name": "verifier", where: {"terminated": {"exitCode": code, "message": message}}}


DIFFERS = Result(
    stage="verify", outcome="failed", reason="VerificationFailed", message="differs"
).to_message()


@pytest.mark.parametrize(
    ("container", "reason", "message"),
    [
        (
            crashing(2, {"exitCode": 1}),
            "CrashLoopBackOff",
            "Container vllm of pod p exited 3 times. Reason of the last exit: exit code 1.",
        ),
        (
            crashing(7, {"exitCode": 137, "reason": "OOMKilled"}),
            "CrashLoopBackOff",
            "Container vllm of pod p exited 8 times. Reason of the last exit: OOMKilled.",
        ),
        (
            crashing(2, None),
            "CrashLoopBackOff",
            "Container vllm of pod p exited 3 times. Reason of the last exit: exit code None.",
        ),
        (crashing(1, {"exitCode": 1}), None, None),
        (crashing(2, {"exitCode": 1}, "ContainerCreating"), None, None),
        (ended(83, DIFFERS), "VerificationFailed", "differs"),
        (ended(83, DIFFERS, where="lastState"), "VerificationFailed", "differs"),
        (ended(83), "VerificationFailed", "The served model differs from the trained model."),
        (
            ended(77),
            "AccessDenied",
            "The source denied access, the value of a credential cannot be used, or the source "
            "lacks a required signature.",
        ),
        (ended(75, DIFFERS), None, None),
        ({"name": "vllm", "state": {"running": {}}}, None, None),
    ],
)
def test_containers_that_no_restart_can_help(
    container: Any, reason: str | None, message: str | None
) -> None:
    healthy = {"name": "vllm", "state": {"running": {}}}
    found = readiness.failure(deployment(), [pod(containers=[healthy, container])], START)
    assert (found and str(found.reason), found and found.message) == (reason, message)


@pytest.mark.parametrize(
    ("each", "pods", "seconds", "failed"),
    [
        (deployment(OVERDUE), [pod(scheduled=10)], 70, True),
        (deployment(OVERDUE), [pod(scheduled=10)], 69, False),
        (deployment(OVERDUE), [pod(scheduled=0), pod(scheduled=10)], 69, False),
        (deployment(OVERDUE, observed=0), [pod(scheduled=0)], 999, False),
        (deployment(), [pod(scheduled=0)], 999, False),
        (deployment(OVERDUE), [], 999, False),
        (deployment(OVERDUE), [pod()], 999, False),
    ],
)
def test_the_progress_deadline_counts_from_the_last_scheduled_pod(
    each: Any, pods: Any, seconds: int, failed: bool
) -> None:
    found = readiness.failure(each, pods, START + timedelta(seconds=seconds))
    if not failed:
        assert found is None
        return
    assert found is not None
    assert found.reason == "ProgressDeadlineExceeded"
    assert found.message == (
        "60 s after the newest pod was scheduled, no pod was ready. To see why, run: kubectl logs "
        "deployment/d --all-containers."
    )


@pytest.mark.parametrize(
    ("serving", "each", "pods", "seconds"),
    [
        (("False", 10), deployment(), [pod()], 90),
        (("False", 10), deployment(), [pod(), pod(created=40)], 60),
        (("True", 10), deployment(), [pod()], 0),
        (None, deployment(), [pod()], 0),
        (("False", 10), deployment(), [], 0),
        (("False", 10), deployment(condition("ReplicaFailure", "True", 30)), [], 70),
        (("False", 10), deployment(condition("Available", "False", 30)), [], 70),
        (("False", 10), deployment(condition("Available", "True", 30)), [], 0),
        (("False", 10), deployment(condition("ReplicaFailure", "False", 30)), [], 0),
        (("False", 10), deployment(condition("Available", "False", 30), observed=0), [], 0),
    ],
)
def test_an_endpoint_is_down_since_it_stopped_answering_or_its_pods_changed(
    serving: tuple[str, int] | None, each: Any, pods: Any, seconds: int
) -> None:
    snapshot = Cluster().observe()
    status = {} if serving is None else {"conditions": [condition("Serving", *serving)]}
    snapshot = replace(snapshot, job={**snapshot.job, "status": status})
    found = readiness.down_seconds(index(snapshot), each, pods, START + timedelta(seconds=100))
    assert found == seconds
