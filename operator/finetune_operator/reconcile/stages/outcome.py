"""How a Job ended, from its conditions and its pod's termination message.

A Complete Job proves only that a process exited with code 0, which a stopped process may do as
well. A stage has completed if its Job is Complete *and* its result reports completion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.contracts.exitcodes import ExitCode
from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests.jobs import CONTAINER
from finetune_operator.objects import conditions, naming
from finetune_operator.objects.jobs import pods_of
from finetune_operator.reconcile.messages import sentence
from finetune_operator.types import Object

OOM_KILLED = "OOMKilled"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a Job. ``Unproved`` is a Complete Job without a result that reports completion."""

    kind: Literal["Completed", "Failed", "Unproved"]
    reason: str
    message: str
    result: Result | None = None


def of(job: Object, pods: Iterable[Object]) -> Outcome | None:
    """Return how a Job ended, or None while it has not finished.

    pods: any pods; only those that the Job controls count.
    """
    pods = list(pods)
    if conditions.is_true(job, "Complete"):
        terminated = _last_end(job, pods)
        result = Result.from_message(terminated.get("message", ""))
        stage = naming.label(job, naming.STAGE)
        if result is not None and _proves(result, stage):
            return Outcome(
                kind="Completed", reason=Reason.COMPLETED, message=result.message, result=result
            )
        if _disrupted(job, pods):
            return Outcome(
                kind="Unproved",
                reason=Reason.STOPPED,
                message=f"The pod of Job {job['metadata']['name']} was disrupted before it could "
                "report a result.",
            )
        return Outcome(
            kind="Unproved",
            reason=Reason.RESULT_MISSING,
            message=f"Job {job['metadata']['name']} completed, but "
            + (
                f"its result reports step {result.global_step} of {result.max_steps}. "
                if result is not None and _cut_short(result)
                else "its result lacks the digests of its output folders. "
                if result is not None and result.outcome == "completed"
                else "its pod did not report that the stage is complete. "
            )
            + f"Run kubectl logs job/{job['metadata']['name']}.",
        )
    if conditions.is_true(job, "Failed"):
        return _failure(job, _last_end(job, pods))
    return None


def out_of_memory(pods: Iterable[Object]) -> bool:
    """Report whether one of a Job's own pods was killed because it exceeded its memory limit."""
    return any(
        container["name"] == CONTAINER
        and container.get("state", {}).get("terminated", {}).get("reason") == OOM_KILLED
        for pod in pods
        for container in pod.get("status", {}).get("containerStatuses", ())
    )


def killed_for_memory(job: Object) -> str:
    """Return the message about a Job that exceeded its memory limit."""
    return (
        f"Job {job['metadata']['name']} exceeded its memory limit and was killed. "
        f"Raise spec.resources.{naming.label(job, naming.STAGE)}.limits.memory."
    )


def _disrupted(job: Object, pods: Iterable[Object]) -> bool:
    """Report whether the newest pod of a Job was preempted, evicted or deleted while it ran."""
    return any(
        conditions.is_true(pod, "DisruptionTarget") or "deletionTimestamp" in pod["metadata"]
        for pod in pods_of(job, pods)[-1:]
    )


def _proves(result: Result, stage: str | None) -> bool:
    """Report whether a result of a stage proves that the stage has completed."""
    return (
        result.stage == stage
        and result.outcome == "completed"
        and not _cut_short(result)
        and result.vouches
    )


def _cut_short(result: Result) -> bool:
    steps = (result.global_step, result.max_steps)
    return None not in steps and steps[0] < steps[1]  # type: ignore[operator]


def _last_end(job: Object, pods: Iterable[Object]) -> Mapping[str, Any]:
    """Return the newest ``terminated`` state of the Job's trainer container, or an empty one.

    Of two that ended within the same second, the newer pod's counts.
    """
    ends: list[Mapping[str, Any]] = [
        container["state"]["terminated"]
        for pod in reversed(pods_of(job, pods))
        for container in pod.get("status", {}).get("containerStatuses", ())
        if container["name"] == CONTAINER and "terminated" in container.get("state", {})
    ]
    return max(ends, key=lambda end: str(end.get("finishedAt", "")), default={})


def _failure(job: Object, end: Mapping[str, Any]) -> Outcome:
    result = Result.from_message(end.get("message", ""))
    condition = conditions.get(job, "Failed")
    deadline = job["spec"].get("activeDeadlineSeconds")
    if condition.get("reason") == Reason.DEADLINE_EXCEEDED and deadline is not None:
        return Outcome(
            kind="Failed",
            reason=Reason.DEADLINE_EXCEEDED,
            message=_overdue(job, deadline, result),
            result=result,
        )
    if result is not None and result.outcome == "failed":
        return Outcome(kind="Failed", reason=result.reason, message=result.message, result=result)
    name = job["metadata"]["name"]
    if end.get("reason") == OOM_KILLED:
        return Outcome(
            kind="Failed",
            reason=Reason.OUT_OF_MEMORY,
            message=killed_for_memory(job),
            result=result,
        )
    code = end.get("exitCode")
    last = "no pod is left" if code is None else f"the last pod exited with code {code}"
    if code == ExitCode.STOPPED:
        last = "the last pod was stopped externally before it completed"
    return Outcome(
        kind="Failed",
        reason=Reason.RETRIES_EXHAUSTED,
        message=f"Job {name} failed ({condition.get('reason', 'Failed')}): {last}. "
        f"Run kubectl logs job/{name}.",
        result=result,
    )


def never_started(job: Object) -> str:
    """Return the message about a Job that exceeded its deadline before a container started."""
    return (
        f"No container of Job {job['metadata']['name']} started within "
        f"{job['spec']['activeDeadlineSeconds']} s, for example because the image could not be "
        "pulled or no node was available. After you have removed the cause, change "
        "spec.runPolicy.prepareDeadlineSeconds to try again."
    )


def _overdue(job: Object, seconds: int, result: Result | None) -> str:
    """Return the message about a Job that exceeded its deadline, which only prepare Jobs have."""
    quoted = f" {result.reason}: {sentence(result.message)}" if result else ""
    return (
        f"Job {job['metadata']['name']} did not complete within {seconds} s.{quoted} "
        "Possible causes: a large download, a slow server of the source, or a chat template whose "
        "rendering does not end. If the download needs more time, raise "
        "spec.runPolicy.prepareDeadlineSeconds."
    )
