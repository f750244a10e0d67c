"""A Job that continues: what it does, or what blocks its pod."""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import job_stage
from finetune_operator.reconcile import queues
from finetune_operator.reconcile.conditions import blocked, runs
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.diagnosis import diagnosis
from finetune_operator.reconcile.diagnosis.blocker import evidence
from finetune_operator.reconcile.stages import queueing
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    job: Child,
    now: datetime,
) -> Decision:
    """Return the decision about a Job that continues: what it does, or its blocker."""
    pods, events = snapshot.pods_of(job), snapshot.events
    has_run = bool(attempt.has_run) or diagnosis.started(job.object, pods)
    failed = diagnosis.failed_to_start(
        job.object, events, before=attempt.reason == Reason.FAILED_TO_START
    )
    changes = {
        "outcome": "Running",
        "has_run": has_run or None,
        "reason": Reason.FAILED_TO_START if failed else None,
    }
    ledger = ledger.with_attempt(target.revision, attempt.model_copy(update=changes))
    since = diagnosis.waiting_since(job.object, pods, events, last_pod=attempt.pod_created)
    seconds = (now - datetime.fromisoformat(since)).total_seconds()
    trains, card = job_stage(attempt.stage).gpu, ledger.revision(target.revision).card
    blocker = diagnosis.of_job(
        job.object,
        pods,
        evidence(snapshot, target, gpu=trains, card=card if trains else None),
        has_run=has_run,
        failed_to_start=failed,
        since=since,
    )
    blocker = queues.explained(blocker, snapshot, target, job.object)
    warnings = queueing.warnings(job.object, has_run=has_run)
    # A block that began in the future is reported: the clock was set back.
    if blocker is not None and not 0 <= seconds < blocker.grace:
        deadline = target.resolved.spec.run_policy.pending_deadline_seconds
        return Decision(
            ledger=ledger,
            position=blocked(blocker, seconds=seconds, deadline=deadline),
            warnings=warnings,
        )
    return Decision(
        ledger=ledger,
        position=runs(job_stage(attempt.stage), requeue_after=delays.poll(seconds)),
        warnings=warnings,
    )
