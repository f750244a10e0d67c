"""Position of a job → its conditions.

``Ready`` is always present and its reason is the one word that people read. ``Reconciling`` and
``Stalled`` are present only while they are True, never both. ``Succeeded`` is True once a revision
has produced a model, and stays True: neither another merge nor the loss of its volume changes that.
``Finished`` is True while nothing is left to do for the present spec: the job is ready, or it has
failed and only an edit lets it continue. It alone waits for publishing. Another condition that
would repeat the message of ``Ready`` refers to it instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.objects.conditions import Status, written
from finetune_operator.objects.stages import BESIDE, JobStage
from finetune_operator.reconcile.diagnosis.blocker import Blocker

QUEUED = (Reason.QUEUED, Reason.PREEMPTED)
SEE_READY = "See the message of the condition Ready."

Desired = Mapping[str, tuple[Status, str, str]]
"""Status, reason and message of conditions, by type."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """The state of a job. ``state`` decides the conditions; reason and message are for people.

    A "stalled" job continues by itself once its cause is fixed; a "failed" one needs an edit. A
    "suspended" one continues when its user, or a budget, lets it.
    """

    state: Literal["done", "active", "stalled", "failed", "suspended"]
    reason: str
    message: str
    requeue_after: float | None = None
    meanwhile: "Position | None" = None
    """Position of the revision that continues while the one in the spec cannot start."""


@dataclass(frozen=True, kw_only=True)
class ServingState:
    """The serving build, which the Service selects, and whether it answers requests."""

    available: bool
    reason: str
    message: str
    revision: str | None = None
    build: str | None = None
    replicas: int = 0
    available_replicas: int = 0
    selector: str | None = None
    summary: str = "-"
    """Which build answers, in one word."""

    release_planned_at: str | None = None
    idle_after_seconds: int | None = None
    last_request_at: str | None = None
    idle_since: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishingState:
    """The state of publishing the target's build."""

    status: Status
    reason: str
    message: str
    finished: bool = False
    """Whether only an edit lets it continue."""


def suspended() -> Position:
    """Return the position of a job that its user suspended."""
    return Position(
        state="suspended",
        reason=Reason.SUSPENDED_BY_USER,
        message="spec.suspend is true. Set it to false to resume from the last checkpoint.",
    )


def active(reason: Reason, message: str, *, requeue_after: float = delays.POLL) -> Position:
    """Return the position of a job that is making progress or waits for it."""
    return Position(state="active", reason=reason, message=message, requeue_after=requeue_after)


def runs(stage: JobStage, *, requeue_after: float = delays.POLL) -> Position:
    """Return the position of a job while a stage runs as expected."""
    return active(stage.in_progress, stage.doing, requeue_after=requeue_after)


def explained(position: Position, note: str) -> Position:
    """Return a position whose message says first what a pod without a node can expect."""
    if position.reason != Reason.UNSCHEDULABLE or not note:
        return position
    return replace(position, message=f"{note} {position.message}")


def blocked(blocker: Blocker, *, seconds: float, deadline: float) -> Position:
    """Return the position of a job whose pod has been blocked from starting for ``seconds``."""
    overdue = not blocker.waits and seconds > deadline
    return Position(
        state="failed" if blocker.lasts else "stalled" if overdue else "active",
        reason=blocker.reason,
        message=blocker.message,
        requeue_after=delays.POLL,
    )


def conditions(
    position: Position,
    *,
    previous: Mapping[str, Mapping[str, Any]],
    generation: int,
    now: datetime,
    stages: Mapping[JobStage, Attempt | None],
    serving: ServingState | None,
    succeeded: bool,
    publishing: PublishingState | None = None,
) -> list[dict[str, Any]]:
    """Return all conditions of a job.

    previous: the present conditions by type; stages: the desired stages with their latest attempts;
    serving: None if serving is not enabled and nothing serves; succeeded: whether the revision had
    succeeded before; publishing: None if the spec asks for no targets.
    """
    desired: dict[str, tuple[Status, str, str]] = {
        "Ready": (
            "True" if position.state == "done" else "False",
            position.reason,
            position.message,
        ),
        "Succeeded": _succeeded(position, stages, succeeded),
        "Finished": _finished(position, publishing),
    }
    desired |= of_state(position)
    desired["Suspended"] = _suspended(position)
    for stage, attempt in stages.items():
        desired[stage.condition] = _stage(attempt)
    if publishing is not None:
        reported = (publishing.status, publishing.reason, publishing.message)
        desired |= {stage.condition: reported for stage in BESIDE}
    if serving is not None:
        desired["Serving"] = (
            "True" if serving.available else "False",
            serving.reason,
            serving.message,
        )
    return listed(desired, position, previous=previous, generation=generation, now=now)


def of_state(position: Position) -> Desired:
    """Return the condition that is present only while it is True, if there is one."""
    if position.state == "active":
        return {"Reconciling": ("True", position.reason, position.message)}
    if position.state in ("stalled", "failed"):
        return {"Stalled": ("True", position.reason, position.message)}
    return {}


def listed(
    desired: Desired,
    position: Position,
    *,
    previous: Mapping[str, Mapping[str, Any]],
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """Return the conditions of an object in a position, whose message is that of Ready."""
    return [
        written(
            type_,
            status,
            reason,
            SEE_READY if type_ != "Ready" and message == position.message else message,
            before=previous.get(type_, {}),
            generation=generation,
            now=now,
        )
        for type_, (status, reason, message) in desired.items()
    ]


def _succeeded(
    position: Position, stages: Mapping[JobStage, Attempt | None], before: bool
) -> tuple[Status, str, str]:
    outcomes = [attempt.outcome if attempt else None for attempt in stages.values()]
    if before or (outcomes and all(outcome == "Completed" for outcome in outcomes)):
        return "True", Reason.COMPLETED, "All stages that produce the model have completed."
    if "Failed" in outcomes and position.state == "failed":
        return "False", position.reason, position.message
    return "Unknown", position.reason, "The stages that produce the model have not completed."


def _finished(position: Position, publishing: PublishingState | None) -> tuple[Status, str, str]:
    ended = position.state in ("done", "failed")
    if ended and publishing is not None and not publishing.finished:
        return "False", publishing.reason, "Publishing has not finished."
    if position.state == "done":
        return "True", position.reason, "Nothing is left to do for this spec."
    if position.state == "failed":
        return "True", position.reason, "The job has failed. To continue, edit its spec."
    return "False", position.reason, "The job has not finished."


def _suspended(position: Position) -> tuple[Status, str, str]:
    if position.meanwhile is not None and position.meanwhile.state != "done":
        position = position.meanwhile
    if position.state == "suspended" or position.reason in QUEUED:
        return "True", position.reason, position.message
    if position.state == "done":
        return "False", Reason.FINISHED, "No stage is left to run."
    return "False", Reason.RUNNING, "The job is not suspended."


def _stage(attempt: Attempt | None) -> tuple[Status, str, str]:
    if attempt is None:
        return "Unknown", Reason.PENDING, "The stage has not started."
    if attempt.outcome == "Completed":
        return "True", Reason.COMPLETED, attempt.message or f"Attempt {attempt.attempt} completed."
    if attempt.outcome == "Failed":
        return "False", attempt.reason or Reason.FAILED, attempt.message or ""
    return (
        "Unknown",
        Reason(attempt.outcome),
        f"Attempt {attempt.attempt} is {attempt.outcome.lower()}.",
    )
