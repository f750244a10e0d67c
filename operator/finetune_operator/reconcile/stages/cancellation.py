"""Which Jobs are stopped before they finish, and how the ledger records that."""

from collections.abc import Collection
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.actions import Delete
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import JobStage, publishes
from finetune_operator.reconcile.decision import Decision
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event

UNDER_WAY = ("Starting", "Running")


def stop_abandoned(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, stages: Collection[JobStage]
) -> Decision:
    """Stop the Jobs of a revision, build or stage that the spec no longer asks for.

    stages: the desired ones. A Job that publishes another revision continues, as long as the spec
    asks for publishing: it is on another volume, and that model is complete. Jobs are also stopped
    if the images of the revision were corrected, before any container has started; if the ledger
    records their attempt as ended, because the operator may have restarted between the write of the
    ledger and the deletion; and if the ledger does not know them, because another client created
    them.
    """
    corrected = ledger.with_frozen(target.revision, target.frozen)
    decision = Decision(ledger=corrected)
    for job in snapshot.jobs:
        if not job.owned or job.revision is None or job.ended:
            continue
        of_target = job.revision == target.revision
        desired = (
            (of_target or publishes(job.stage))
            and corrected is ledger
            and (job.build in (None, target.build) or not of_target)
            and job.stage in {stage.name for stage in stages}
        )
        attempt = attempt_of(decision.ledger, job)
        under_way = attempt is not None and attempt.outcome in UNDER_WAY
        if not desired and under_way:
            event = _superseded(target, job, corrected=corrected is not ledger)
            decision = decision.then(Decision(ledger=decision.ledger, events=(event,)))
        if not desired or not under_way:
            decision = decision.then(stop(decision.ledger, job))
    return decision


def _superseded(target: TargetRevision, job: Child, *, corrected: bool) -> Event:
    if job.revision != target.revision:
        cause = f"the spec now describes revision {target.revision}"
    elif job.build not in (None, target.build):
        cause = f"the spec now describes build {target.build}"
    elif corrected:
        cause = "the images of the chart were corrected"
    else:
        cause = f"the spec no longer asks for the {job.stage} stage"
    return Event(
        type="Normal",
        reason=Reason.SUPERSEDED,
        message=f"Job {job.name} was stopped: {cause}.",
    )


def stop(ledger: Ledger, job: Child, **end: str) -> Decision:
    """Stop a Job. end: reason and message of its attempt, if neither a user nor an edit asked."""
    stops = () if job.terminating else (Delete(object=job.object),)
    attempt = attempt_of(ledger, job)
    if attempt is not None and attempt.outcome in UNDER_WAY:
        ended = {"outcome": "Stopped", "reason": None, "message": None, **end}
        ledger = ledger.with_attempt(str(job.revision), attempt.model_copy(update=ended))
    return Decision(ledger=ledger, stops=stops)


def attempt_of(ledger: Ledger, job: Child) -> Attempt | None:
    """Return the latest attempt at a stage if a Job is the Job of this attempt, or None.

    The uid of the Job of an attempt that is starting may be unknown.
    """
    stage: Any = job.stage
    attempt = ledger.attempt(str(job.revision), stage, job.build)
    if attempt is None or attempt.attempt != job.attempt or attempt.job not in (None, job.uid):
        return None
    return attempt
