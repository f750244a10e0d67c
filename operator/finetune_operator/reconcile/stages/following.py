"""A Job that has not finished: whether it may continue, or is stopped and why."""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile import storage
from finetune_operator.reconcile.conditions import suspended
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, ending, outcome, restarts, running
from finetune_operator.reconcile.stages.cancellation import stop
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
    """Return the decision about a Job that has not finished: whether it may continue."""
    spec, pods = target.resolved.spec, snapshot.pods_of(job)
    attempt = restarts.counted(attempt, job.object, pods)
    ledger = ledger.with_attempt(target.revision, attempt)
    if spec.suspend:
        stopped = stop(ledger, job)
        return stopped.then(Decision(ledger=stopped.ledger, position=suspended()))
    if restarts.capped(attempt) > spec.run_policy.max_restarts:
        failed = restarts.too_many(attempt, spec.run_policy.max_restarts)
        stopped = stop(ledger, job)
        return stopped.then(Decision(ledger=stopped.ledger.with_attempt(target.revision, failed)))
    if outcome.out_of_memory(pods):
        if ending.may_have_more_memory(target, attempt):
            return stop(ledger, job, reason=Reason.OUT_OF_MEMORY)
        if attempt.memory is not None:
            # The doubled memory was not enough either; its Job would only repeat that.
            message = outcome.killed_for_memory(job.object)
            return stop(ledger, job, outcome="Failed", reason=Reason.OUT_OF_MEMORY, message=message)
    # After a pod has succeeded, it takes a moment until its Job is complete.
    busy = any(pod.get("status", {}).get("phase") in ("Running", "Succeeded") for pod in pods)
    if not busy and not attempts.is_current(target, attempt):
        # The edit may have fixed what it waits for.
        return stop(ledger, job)
    if snapshot.volume(target.revision) is not None:
        return running.decide(snapshot, target, ledger, attempt, job, now)
    ledger = ledger.with_untrusted_volume(target.revision, None)
    create = tuple(storage.ensure(snapshot.job, target, None))
    following = running.decide(snapshot, target, ledger, attempt, job, now)
    return Decision(ledger=ledger, actions=create).then(following)
