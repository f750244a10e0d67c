"""GPU hand-over: when the stable build releases its GPU, and when it reclaims it.

Training gets the GPU by ``serving.rollout``. With ``KeepServing`` it never does. With ``FreeGPU``
the stable build releases its GPU once a train pod that may run finds no other one. With ``Auto`` it
does so after ``serving.releaseAfterSeconds``, if that helps the train pod (``release_check``) and
the time was announced; at most once for each revision, which the ledger records.

The stable build reclaims the GPU as soon as the job makes no progress towards the next build:
suspended, preempted or failed. With ``Auto`` it also does so if no train pod has had a node for
five minutes. A release that the ledger does not record shows in the Deployment, which has 0
replicas. If a user has deleted the volume of the stable build, its pods could not start again: it
keeps the GPU.

A new build that has to be verified gets the GPU in any case: at once with ``FreeGPU``; with
``Auto`` after ``serving.releaseAfterSeconds``; with ``KeepServing`` after
``runPolicy.pendingDeadlineSeconds``. An autoscaler can add another GPU in the meantime.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.resources import GPURelease
from finetune_operator.objects.conditions import timestamp
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import JobStage, desired, precedes_training
from finetune_operator.reconcile.conditions import (
    Position,
)
from finetune_operator.reconcile.serving import readiness
from finetune_operator.reconcile.serving.handover import release_check, train_pods
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event, Object

HELPS_WITHIN_SECONDS = 300
"""Time without a node for any train pod after which a release by ``Auto`` ends."""


@dataclass(frozen=True, kw_only=True)
class Handover:
    """The decision about the GPU of the stable build."""

    ledger: Ledger
    released: bool = False
    """Whether the stable build releases its GPU, or has released it."""

    planned_at: str | None = None
    """When the stable build releases its GPU, if no other one becomes available before."""

    note: str = ""
    """Explanation for the message about a pod that waits for a GPU, empty if there is none."""

    events: tuple[Event, ...] = ()


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    *,
    position: Position,
    old: Child,
    now: datetime,
) -> Handover:
    """Return the decision about the GPU of the stable build. old: its Deployment.

    The stable build is not the target's, and should have pods if it keeps its GPU.
    """
    name = ledger.name_of(str(old.build))
    if not snapshot.can_be_mounted(ledger.revision_of(str(old.build))):
        note = (
            f"Build {name} keeps its GPU: its volume is terminating or was deleted, so its pods "
            "could not start again. To release the GPU, save the model, and set "
            "spec.serving.replicas to 0."
        )
        return Handover(ledger=ledger.with_gpu_releases_ended(position.reason), note=note)
    stage = _under_way(target, ledger)
    if (
        position.state != "active"
        or (stage is not None and precedes_training(stage))
        or not train_pods.may_run(snapshot, target, ledger)
    ):
        return Handover(ledger=ledger.with_gpu_releases_ended(position.reason))
    handover = _of_stage(snapshot, target, ledger, stage, position, old, now)
    if handover.released and not _scaled_down(snapshot, old):
        text = (
            f"Build {name} releases its GPU to build {target.build} of revision {target.revision}."
        )
        event = Event(type="Normal", reason=Reason.GPU_RELEASED, message=text)
        handover = replace(handover, events=(*handover.events, event))
    return handover


def _of_stage(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage | None,
    position: Position,
    old: Child,
    now: datetime,
) -> Handover:
    rollout = target.resolved.spec.serving.rollout
    if stage is None:
        return _for_verification(snapshot, target, ledger, position, old, now)
    if rollout == "Auto":
        return _auto(snapshot, target, ledger, stage, old, now)
    waiting = stage.gpu and _waiting(train_pods.living(snapshot, target, ledger))
    if rollout == "FreeGPU":
        released = _scaled_down(snapshot, old) or bool(waiting)
        return Handover(ledger=ledger, released=released)
    name = ledger.name_of(str(old.build))
    note = (
        f"Build {name} keeps its GPU. To let training use the GPU, set spec.serving.rollout "
        "to Auto or FreeGPU."
    )
    return Handover(
        ledger=ledger.with_gpu_releases_ended(position.reason), note=note if waiting else ""
    )


def _auto(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    old: Child,
    now: datetime,
) -> Handover:
    """Return the decision with ``Auto`` while the target is trained or merged."""
    pods = train_pods.living(snapshot, target, ledger)
    release = ledger.revision(target.revision).gpu_release
    if release is None and _released_by_free_gpu(snapshot) and train_pods.have_node(pods):
        release = GPURelease(released_at=timestamp(now))
        ledger = ledger.with_gpu_release(target.revision, release)
    if release is None:
        return _before_release(snapshot, target, ledger, pods, old, now)
    if release.ended is not None:
        name = ledger.name_of(str(old.build))
        note = (
            f"Build {name} keeps its GPU. With rollout: Auto, a build releases its GPU only "
            f"once per revision, and the release for revision {target.revision} has ended "
            f"({release.ended}). To release the GPU again, set spec.serving.rollout to FreeGPU."
        )
        return Handover(ledger=ledger, note=note if _waiting(pods) else "")
    if not stage.gpu:
        return Handover(ledger=ledger, released=True)
    return _after_release(target, ledger, release, pods, old, now)


def _before_release(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    pods: list[Object],
    old: Child,
    now: datetime,
) -> Handover:
    """Return whether the stable build releases its GPU to a train pod now, or when, or why not."""
    waiting = _waiting(pods)
    if waiting is None:
        return Handover(ledger=ledger)
    pod, since = waiting
    if obstacle := release_check.obstacle(snapshot, target, ledger, str(old.build), pod):
        return Handover(ledger=ledger, note=obstacle)
    seconds = target.resolved.spec.serving.release_after_seconds
    previous = snapshot.previous
    announced = previous.is_about(target.revision) and previous.release_planned_at is not None
    at = since + timedelta(seconds=seconds)
    if now < at or (seconds > 0 and not announced):
        return _planned(snapshot, ledger, old, pod, at)
    release = GPURelease(released_at=timestamp(now), waiting_since=timestamp(now))
    return Handover(ledger=ledger.with_gpu_release(target.revision, release), released=True)


def _after_release(
    target: TargetRevision,
    ledger: Ledger,
    release: GPURelease,
    pods: list[Object],
    old: Child,
    now: datetime,
) -> Handover:
    """Return whether a release continues, by the time that no train pod has had a node."""
    if train_pods.have_node(pods):
        present = release.model_copy(update={"waiting_since": None})
        return Handover(ledger=ledger.with_gpu_release(target.revision, present), released=True)
    name, waiting_since = ledger.name_of(str(old.build)), release.waiting_since or timestamp(now)
    until = datetime.fromisoformat(waiting_since) + timedelta(seconds=HELPS_WITHIN_SECONDS)
    if now < until:
        present = release.model_copy(update={"waiting_since": waiting_since})
        return Handover(
            ledger=ledger.with_gpu_release(target.revision, present),
            released=True,
            note=f"Build {name} released its GPU at {release.released_at}. "
            f"It serves again if no train pod has been scheduled before {timestamp(until)}.",
        )
    ended = {"waiting_since": None, "ended": Reason.RELEASE_DID_NOT_HELP}
    text = (
        f"Build {name} released its GPU at {release.released_at}. "
        f"However, no train pod of revision {target.revision} was assigned to a node for "
        f"{HELPS_WITHIN_SECONDS} s. The build serves again and keeps its GPU. To train, "
        "free another GPU."
    )
    event = Event(type="Warning", reason=Reason.RELEASE_DID_NOT_HELP, message=text)
    return Handover(
        ledger=ledger.with_gpu_release(target.revision, release.model_copy(update=ended)),
        note=text,
        events=(event,),
    )


def _for_verification(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    position: Position,
    old: Child,
    now: datetime,
) -> Handover:
    """Return the decision while the target's build is starting and has to be verified."""
    spec = target.resolved.spec
    release = ledger.revision(target.revision).gpu_release
    released = _scaled_down(snapshot, old) or (release is not None and release.ended is None)
    waiting = _waiting(readiness.pods_of(snapshot, target.build))
    if released or waiting is None:
        return Handover(ledger=ledger, released=released)
    seconds = spec.run_policy.pending_deadline_seconds
    if spec.serving.rollout == "FreeGPU":
        seconds = 0
    elif spec.serving.rollout == "Auto" and release is None:
        seconds = spec.serving.release_after_seconds
    pod, since = waiting
    at = since + timedelta(seconds=seconds)
    if now >= at:
        return Handover(ledger=ledger, released=True)
    if position.reason != Reason.UNSCHEDULABLE:
        # Another pod of the build is verified, and the endpoint switches to it.
        return Handover(ledger=ledger)
    return _planned(snapshot, ledger, old, pod, at)


def _planned(
    snapshot: IndexedSnapshot, ledger: Ledger, old: Child, pod: Object, at: datetime
) -> Handover:
    """Return the announcement of a release; an event announces each new time."""
    name, planned_at = ledger.name_of(str(old.build)), timestamp(at)
    text = (
        f"Pod {pod['metadata']['name']} waits for a GPU. Build "
        f"{name} releases its GPU at {planned_at} if no other GPU is available by then."
    )
    event = Event(type="Normal", reason=Reason.GPU_RELEASE_PLANNED, message=text)
    announced = snapshot.previous.release_planned_at == planned_at
    return Handover(
        ledger=ledger, planned_at=planned_at, note=text, events=() if announced else (event,)
    )


def _under_way(target: TargetRevision, ledger: Ledger) -> JobStage | None:
    """Return the first stage that has not completed, None if the model is complete."""
    for stage in desired(target.resolved.spec):
        attempt = ledger.latest(target.revision, stage, target.build)
        if attempt is None or attempt.outcome != "Completed":
            return stage
    return None


def _scaled_down(snapshot: IndexedSnapshot, old: Child) -> bool:
    """Report whether the stable build has released its GPU.

    Without requests, or in an exhausted budget, it was stopped for another reason.
    """
    stopped = old.object["spec"].get("replicas") == 0
    others = snapshot.previous.idle_since is not None or _serving_reason(snapshot) == (
        Reason.SERVING_OVER_BUDGET
    )
    return stopped and not others


def _released_by_free_gpu(snapshot: IndexedSnapshot) -> bool:
    """Report whether the GPU was released before ``spec.serving.rollout`` became ``Auto``."""
    return _serving_reason(snapshot) == Reason.GPU_RELEASED


def _serving_reason(snapshot: IndexedSnapshot) -> str | None:
    """Return the previous reason of the condition Serving."""
    previous = snapshot.previous.conditions.get("Serving", {})
    return None if "reason" not in previous else str(previous["reason"])


def _waiting(pods: list[Object]) -> tuple[Object, datetime] | None:
    """Return the pod that has waited longest for a GPU, and since when; None if none waits."""
    waits = [(pod, since) for pod in pods if (since := readiness.gpu_wanted_since(pod)) is not None]
    return min(waits, key=lambda wait: wait[1], default=None)
