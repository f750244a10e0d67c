"""Whether a build's pods wait for a GPU, are down, or have failed.

The Deployment's condition ``Available`` does not help: if its only replica may be unavailable, it
is always True. The pods of the current template are counted instead.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions
from finetune_operator.objects.deployments import observed
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.pods import (
    extended_resources,
    has_a_node,
    refused_by_nodes,
    scheduled_since,
)
from finetune_operator.types import Object

REFUSALS = (ExitCode.VERIFICATION_FAILED, ExitCode.ACCESS_DENIED)
"""Exit codes of a verifier that no restart can change: a mismatch, and an invalid API key."""
CRASHES = 3
"""Exits of a container after which the build has failed; each holds a GPU while it loads."""

ENDING_SECONDS = 60
"""Time after its grace period for which a terminating pod is expected to end."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a build has failed."""

    reason: Reason
    message: str


def pods_of(snapshot: IndexedSnapshot, build: str, attempt: int | None = None) -> list[Object]:
    """Return the living serving pods of a build, or of one attempt at serving it."""
    return [
        pod.object
        for pod in snapshot.pods
        if pod.build == build
        and pod.serves
        and attempt in (None, pod.attempt or 0)
        and not pod.terminating
        and not pod.ended
    ]


def gpu_wanted_since(pod: Object) -> datetime | None:
    """Return since when the scheduler finds no GPU for a pod, None if it has or needs none."""
    refusal = refused_by_nodes(pod) or ""
    if any(f"Insufficient {resource}" in refusal for resource in extended_resources(pod)):
        return scheduled_since(pod)
    return None


def without_node(pods: Iterable[Object]) -> bool:
    """Report whether there are pods, and the scheduler finds no node for any of them."""
    refusals = [refused_by_nodes(pod) for pod in pods]
    return bool(refusals) and None not in refusals


def ending(snapshot: IndexedSnapshot, now: datetime) -> str | None:
    """Return the name of a terminating serving pod of the job that ends in time, or None.

    The time of its deletion includes the grace period.
    """
    for pod in snapshot.pods:
        if pod.serves and pod.terminating and not pod.ended:
            until = datetime.fromisoformat(str(pod.object["metadata"]["deletionTimestamp"]))
            if (now - until).total_seconds() < ENDING_SECONDS:
                return pod.name
    return None


def down_seconds(
    snapshot: IndexedSnapshot, deployment: Object, pods: Iterable[Object], now: datetime
) -> float:
    """Return for how many seconds the endpoint of a job has not answered, 0 if it answers.

    pods: the serving ones. A pod that was just created, for example by a scale-up, starts the count
    again. Without pods it starts when Kubernetes reports a rejected pod or too few available ones.
    (It never reports the latter for a single replica that may be unavailable.)
    """
    serving = snapshot.previous.conditions.get("Serving", {})
    made = [str(pod["metadata"]["creationTimestamp"]) for pod in pods] or [
        str(condition["lastTransitionTime"])
        for type_, status in (("ReplicaFailure", "True"), ("Available", "False"))
        if (condition := conditions.get(deployment, type_)).get("status") == status
        and observed(deployment)
    ]
    if serving.get("status") != "False" or not made:
        return 0.0
    since = max(str(serving["lastTransitionTime"]), *made)
    return (now - datetime.fromisoformat(since)).total_seconds()


def failure(deployment: Object, pods: Iterable[Object], now: datetime) -> Failure | None:
    """Return why a build will not become ready by itself, None while it still may.

    pods: those of the attempt under way. A pod that waits for a node has not failed, however long
    it waits: the time since it was scheduled counts.
    """
    pods = list(pods)
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            if problem := _refused(container) or _crashing(pod, container):
                return problem
    overdue = conditions.get(deployment, "Progressing").get("reason")
    if not observed(deployment) or overdue != Reason.PROGRESS_DEADLINE_EXCEEDED:
        return None
    seconds = int(deployment["spec"]["progressDeadlineSeconds"])
    scheduled = [scheduled_since(pod) for pod in pods if has_a_node(pod)]
    if not scheduled or (now - max(scheduled)).total_seconds() < seconds:
        return None
    return Failure(
        reason=Reason.PROGRESS_DEADLINE_EXCEEDED,
        message=f"{seconds} s after the newest pod was scheduled, no pod was ready. To see why, "
        f"run: kubectl logs deployment/{deployment['metadata']['name']} --all-containers.",
    )


def _refused(container: Mapping[str, Any]) -> Failure | None:
    """Return the failure that a verifier reported, now or before a restart."""
    for end in _ends(container):
        if end.get("exitCode") in REFUSALS:
            code = ExitCode(end["exitCode"])
            result = Result.from_message(end.get("message", ""))
            return Failure(
                reason=code.reasons[0], message=result.message if result else code.meaning
            )
    return None


def _crashing(pod: Object, container: Mapping[str, Any]) -> Failure | None:
    restarts = int(container.get("restartCount", 0))
    waiting = container.get("state", {}).get("waiting", {})
    if waiting.get("reason") != Reason.CRASH_LOOP_BACK_OFF or restarts + 1 < CRASHES:
        return None
    end = next(_ends(container), {})
    why = end.get("reason") or f"exit code {end.get('exitCode')}"
    return Failure(
        reason=Reason.CRASH_LOOP_BACK_OFF,
        message=f"Container {container['name']} of pod {pod['metadata']['name']} exited "
        f"{restarts + 1} times. Reason of the last exit: {why}.",
    )


def _ends(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in ("state", "lastState"):
        if end := container.get(state, {}).get("terminated"):
            yield end
