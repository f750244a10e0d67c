"""GPU hand-over: when the stable build releases its GPU, and when it reclaims it.

Training gets the GPU only with ``serving.rollout: FreeGPU``. The stable build releases it once a
train pod that may run finds no other GPU, and reclaims it as soon as the job makes no progress
towards the next build: suspended, preempted or failed. A build that has released its GPU is
recognized by its Deployment, which has 0 replicas.

A new build that has to be verified gets the GPU in any case: at once with ``FreeGPU``; with
``KeepServing`` after ``runPolicy.pendingDeadlineSeconds``, in which an autoscaler would have added
another one.
"""

from datetime import datetime

from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile.conditions import Position, desired_stages, latest_attempts
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def should_release(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    *,
    position: Position,
    old: Object,
    now: datetime,
) -> bool:
    """Report whether the stable build should release its GPU now. old: its Deployment."""
    if position.state != "active":
        return False
    released = old["spec"].get("replicas") == 0
    freely = target.resolved.spec.serving.rollout == "FreeGPU"
    match _under_way(target, ledger):
        case "prepare":
            return False
        case "train":
            return (
                freely
                and _training_may_run(snapshot, target)
                and (released or _starved(snapshot, target))
            )
        case "merge":
            return freely and released
    patience = 0 if freely else target.resolved.spec.run_policy.pending_deadline_seconds
    return released or any(
        (since := readiness.gpu_wanted_since(pod)) is not None
        and (now - since).total_seconds() >= patience
        for pod in readiness.pods_of(snapshot, target.build)
    )


def _under_way(target: TargetRevision, ledger: Ledger) -> str:
    """Return the first stage that has not completed, ``serve`` if all have."""
    attempts = latest_attempts(
        ledger, target.revision, target.build, desired_stages(target.resolved.spec)
    )
    unfinished = (
        stage
        for stage, attempt in attempts.items()
        if attempt is None or attempt.outcome != "Completed"
    )
    return next(unfinished, "serve")


def _train_jobs(snapshot: IndexedSnapshot, target: TargetRevision) -> list[Child]:
    return [
        job
        for job in snapshot.jobs
        if job.owned
        and job.stage == "train"
        and job.revision == target.revision
        and not job.ended
        and not job.terminating
    ]


def _training_may_run(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    """Report whether no train Job is suspended; Kueue preempts a Job by suspending it."""
    return not any(job.object["spec"].get("suspend") for job in _train_jobs(snapshot, target))


def _starved(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    return any(
        readiness.gpu_wanted_since(pod) is not None
        for job in _train_jobs(snapshot, target)
        for pod in snapshot.pods_of(job)
    )
