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

from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pods_of
from finetune_operator.reconcile.conditions import Position, latest_attempts, wanted_stages
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object, Snapshot


def due(
    snapshot: Snapshot,
    target: TargetRevision,
    ledger: Ledger,
    *,
    position: Position,
    old: Object,
    now: datetime,
) -> bool:
    """Tell whether the Deployment ``old``, which serves, is to be without pods now."""
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
        for pod in readiness.pods_of(snapshot.pods, target.build)
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


def _train_jobs(snapshot: Snapshot, target: TargetRevision) -> list[Object]:
    return [
        job
        for job in snapshot.jobs
        if naming.owned_by(snapshot.job, job)
        and naming.label(job, naming.STAGE) == "train"
        and naming.label(job, naming.REVISION) == target.revision
        and not is_over(job)
        and "deletionTimestamp" not in job["metadata"]
    ]


def _training_may_run(snapshot: Snapshot, target: TargetRevision) -> bool:
    """Tell whether no train Job is held back; Kueue preempts by suspending it."""
    return not any(job["spec"].get("suspend") for job in _train_jobs(snapshot, target))


def _starved(snapshot: Snapshot, target: TargetRevision) -> bool:
    return any(
        readiness.gpu_wanted_since(pod) is not None
        for job in _train_jobs(snapshot, target)
        for pod in pods_of(job, snapshot.pods)
    )
