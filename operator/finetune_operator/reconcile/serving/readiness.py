"""What a build's Deployment and pods say: whether they answer, wait for a GPU, or have failed.

Kubernetes' own word ``Available`` is no help: of a Deployment whose only replica may be unavailable
it is always True. So the pods of the newest template are counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests.pod import GPU
from finetune_operator.objects import conditions
from finetune_operator.objects.deployments import observed
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.pods import has_a_node, refused_by_nodes, scheduled_since
from finetune_operator.types import Object

CRASHES = 3
"""Ends of a container after which it is given up; each takes a GPU for as long as loading does."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a build is not taken into service."""

    reason: Reason
    message: str


def pods_of(snapshot: IndexedSnapshot, build: str, attempt: int | None = None) -> list[Object]:
    """Return the living serving pods of a build, or of one attempt at serving it."""
    return [
        pod.object
        for pod in snapshot.pods
        if pod.build == build
        and pod.stage == "serve"
        and attempt in (None, pod.attempt or 0)
        and not pod.terminating
        and not pod.ended
    ]


def gpu_wanted_since(pod: Object) -> datetime | None:
    """Return since when the scheduler finds no GPU for a pod, None where that is not so."""
    if f"Insufficient {GPU}" in (refused_by_nodes(pod) or ""):
        return scheduled_since(pod)
    return None


def down_seconds(
    snapshot: IndexedSnapshot, deployment: Object, pods: Iterable[Object], now: datetime
) -> float:
    """Return for how long the endpoint of a job has not answered, 0 where it does.

    pods: those that serve. One that was just created, after a scale-up for instance, has yet to
    begin; what did not answer before it is no matter. Where there is none it counts from when
    Kubernetes says that one was refused or that too few are available. (Of a single replica that
    may be unavailable it never says the latter.)
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
    """Return why a build will not come into service by itself, None while it still may.

    pods: those of the attempt under way. A pod that waits for a node has not failed, however long
    that takes: what counts is the time since it was given one.
    """
    pods = list(pods)
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            if found := _refused(container) or _crashing(pod, container):
                return found
    overdue = conditions.get(deployment, "Progressing").get("reason")
    if not observed(deployment) or overdue != Reason.PROGRESS_DEADLINE_EXCEEDED:
        return None
    seconds = int(deployment["spec"]["progressDeadlineSeconds"])
    scheduled = [scheduled_since(pod) for pod in pods if has_a_node(pod)]
    if not scheduled or (now - max(scheduled)).total_seconds() < seconds:
        return None
    return Failure(
        reason=Reason.PROGRESS_DEADLINE_EXCEEDED,
        message=f"no pod was ready {seconds} s after it was given a node: see kubectl logs "
        f"deployment/{deployment['metadata']['name']} --all-containers",
    )


def _refused(container: Mapping[str, Any]) -> Failure | None:
    """Return the finding of a verification that did not agree, now or before a restart."""
    for end in _ends(container):
        if end.get("exitCode") == ExitCode.VERIFICATION_FAILED:
            result = Result.from_message(end.get("message", ""))
            said = result.message if result else "the served model is not the one that was trained"
            return Failure(reason=Reason.VERIFICATION_FAILED, message=said)
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
        message=f"container {container['name']} of pod {pod['metadata']['name']} ended "
        f"{restarts + 1} times, last with {why}",
    )


def _ends(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in ("state", "lastState"):
        if end := container.get(state, {}).get("terminated"):
            yield end
