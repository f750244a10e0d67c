"""When the build that serves gives its GPU up for the next one, and when it takes it back.

Training asks for it only with ``serving.rollout: FreeGPU``. It is given up once a train pod that
may run finds no other, is left to the job until the next build serves, and taken back as soon as
the job no longer moves towards that: paused, preempted or failed. What was given up is told by the
Deployment itself, which has 0 replicas then.

A new build that is to be verified gets the GPU in any case: at once with ``FreeGPU``, and with
``KeepServing`` once it has waited for ``runPolicy.pendingDeadlineSeconds``, in which an autoscaler
would have brought another one.
"""

from datetime import datetime

from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile.conditions import Position, latest_attempts, wanted_stages
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
    gave = old["spec"].get("replicas") == 0
    freely = target.resolved.spec.serving.rollout == "FreeGPU"
    match _under_way(target, ledger):
        case "prepare":
            return False
        case "train":
            return (
                freely
                and _training_may_run(snapshot, target)
                and (gave or _starved(snapshot, target))
            )
        case "merge":
            return freely and gave
    patience = 0 if freely else target.resolved.spec.run_policy.pending_deadline_seconds
    return gave or any(
        (since := readiness.gpu_wanted_since(pod)) is not None
        and (now - since).total_seconds() >= patience
        for pod in readiness.pods_of(snapshot, target.build)
    )


def _under_way(target: TargetRevision, ledger: Ledger) -> str:
    """Return the first stage that has not completed, ``serve`` where all have."""
    attempts = latest_attempts(
        ledger, target.revision, target.build, wanted_stages(target.resolved.spec)
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
    """Tell whether no train Job is held back; Kueue preempts by suspending it."""
    return not any(job.object["spec"].get("suspend") for job in _train_jobs(snapshot, target))


def _starved(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    return any(
        readiness.gpu_wanted_since(pod) is not None
        for job in _train_jobs(snapshot, target)
        for pod in snapshot.pods_of(job)
    )
