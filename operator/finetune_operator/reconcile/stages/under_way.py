"""An attempt that is under way: its Job is identified and followed, has ended, or is lost."""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.manifests import jobs
from finetune_operator.objects import naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import job_stage
from finetune_operator.reconcile import images
from finetune_operator.reconcile.conditions import runs
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, ending, following
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    now: datetime,
) -> Decision:
    """Return the decision about an attempt that is "Starting" or "Running".

    Its position is None if the attempt is over; the ledger then says how it ended.
    """
    named = snapshot.named_for(target.revision, attempt)
    if named is None and attempt.outcome == "Starting":
        return Decision(ledger=ledger)
    if attempt.job is None and named is not None and not named.terminating:
        if not snapshot.created.get(named.uid):
            return _identify(snapshot, target, ledger, attempt, named)
        attempt = attempt.model_copy(update={"job": named.uid})
        ledger = ledger.with_attempt(target.revision, attempt)
    job = snapshot.job_of(target.revision, attempt)
    if job is not None:
        attempt = images.recorded(attempt, snapshot.pods_of(job), jobs.CONTAINER)
        ledger = ledger.with_attempt(target.revision, attempt)
    # A Job that has finished has its result even while it is terminating.
    if job is not None and job.ended:
        return ending.decide(snapshot, target, ledger, attempt, job, now)
    if job is not None and not job.terminating:
        return following.decide(snapshot, target, ledger, attempt, job, now)
    return _lost(snapshot, target, ledger, attempt)


def _identify(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    named: Child,
) -> Decision:
    """Return the decision about a Job that exists, but whose uid the ledger does not have.

    The operator restarted after the creation, or another client was faster. The Job is created
    again: that succeeds only if the present one has the same content, and its uid is then known.
    If the content is another one, because the spec was edited meanwhile or because of the other
    client, another attempt replaces the Job.
    """
    spec, differs = target.resolved.spec, named.uid in snapshot.created
    if spec.suspend or differs or not attempts.is_current(target, attempt):
        return stop(ledger, named)
    return Decision(
        ledger=ledger,
        position=runs(job_stage(attempt.stage)),
        actions=(attempts.creation(snapshot, target, ledger, attempt),),
    )


def _lost(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, attempt: Attempt
) -> Decision:
    """Return the decision about an attempt whose Job does not exist any more."""
    name = naming.job_name(snapshot.name, target.revision, attempt.stage, attempt.attempt)
    named = snapshot.named_for(target.revision, attempt)
    reason = Reason.JOB_DELETED
    message = f"Job {name} was deleted externally. The operator starts another attempt."
    if named is not None and named.uid != attempt.job and attempt.job is not None:
        reason = Reason.JOB_REPLACED
        message = (
            f"Job {name} was replaced externally: the present Job has the uid {named.uid}, but the "
            f"operator created a Job with the uid {attempt.job}. The operator ignores the result "
            "of the present Job and starts another attempt."
        )
    stopped = attempt.model_copy(update={"outcome": "Stopped", "reason": reason})
    event = Event(type="Warning", reason=reason, message=message)
    return Decision(ledger=ledger.with_attempt(target.revision, stopped), events=(event,))
