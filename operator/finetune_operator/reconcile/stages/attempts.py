"""The next attempt at a stage: whether it may start, its number, its counters, and its Job."""

from collections.abc import Sequence

from finetune_api.revision_hash import digest
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.actions import Create
from finetune_operator.manifests import jobs, stage_requests
from finetune_operator.objects import conditions
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage, job_stage
from finetune_operator.reconcile import policy
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.stages import restarts
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def prevented(target: TargetRevision, stage: JobStage, attempt: Attempt | None) -> Position | None:
    """Return the position of a job that may not start a stage because its spec was edited.

    The author of the edit wants another revision, which cannot start. A training that has begun
    continues, after an interruption too, and its model is merged.
    """
    begins = stage.reads_sources or (stage.gpu and attempt is None)
    return policy.awaited(target) if begins else None


def following(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    previous: Attempt | None,
    targets: Sequence[str] | None = None,
) -> Attempt:
    """Return the attempt that follows ``previous``, the latest attempt at the stage.

    targets: those of a stage that publishes.
    """
    key = retry_key(target, stage)
    if target.prevented is not None and previous is not None:
        # Nothing is known of some fields that the key covers.
        key = previous.retry_key or key
    memory = None
    if previous is not None and previous.retry_key == key:
        memory = previous.memory
        if (previous.outcome, previous.reason) == ("Stopped", Reason.OUT_OF_MEMORY):
            memory = jobs.more_memory(jobs.resources_of(target, stage))
    return Attempt(
        stage=stage.name,
        build=target.build if stage.per_build else None,
        build_digest=target.resolved.build_digest if stage.per_build else None,
        attempt=_number(snapshot, target, ledger, stage, previous),
        outcome="Starting",
        # The key at its start: if an edit changes it while the attempt runs, a failure is retried.
        retry_key=key,
        memory=memory,
        targets=None if targets is None else list(targets),
        published=_unlisted(snapshot, previous),
        # Another image under the same tag is reported.
        image_id=previous.image_id if previous is not None else None,
        # A revision whose volume a container has written keeps its images.
        has_run=previous.has_run if previous is not None and stage.reads_sources else None,
        **restarts.carried(previous),
    )


def retry_key(target: TargetRevision, stage: JobStage) -> str:
    """Return the hash of the fields whose edit gives a failed stage a new attempt.

    Data preparation also checks whether the model can be served, and whether the chart allows each
    connection; if it fails for such a reason, a change of that value must be enough to continue.
    """
    key = target.resolved.retry_key
    if stage.publishes:
        return digest([key, stage_requests.retried_publishing(target)])
    return digest([key, stage_requests.retried(target)]) if stage.reads_sources else key


def is_current(target: TargetRevision, attempt: Attempt) -> bool:
    """Report whether no field has changed whose edit gives a failed stage a new attempt.

    While the revision that the spec describes cannot start, nothing is known of some of these
    fields, and no edit counts.
    """
    if target.prevented is not None:
        return True
    return attempt.retry_key == retry_key(target, job_stage(attempt.stage))


def timed(attempt: Attempt, job: Object) -> Attempt:
    """Return the attempt with the times at which its Job started and finished."""
    status = job.get("status") or {}
    failed = conditions.get(job, "Failed")
    ended = failed.get("lastTransitionTime") if failed.get("status") == "True" else None
    return attempt.model_copy(
        update={
            # Kueue removes the start of a Job that it evicts.
            "started": status.get("startTime") or attempt.started,
            "ended": status.get("completionTime") or ended,
        }
    )


def creation(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, attempt: Attempt
) -> Create:
    """Return the creation of an attempt's Job."""
    measured = None
    if job_stage(attempt.stage).gpu and snapshot.previous.is_about(target.revision):
        measured = snapshot.previous.training.get("stepSeconds")
    body = jobs.render(
        snapshot.job,
        target,
        job_stage(attempt.stage),
        attempt.attempt,
        record=ledger.revision(target.revision),
        memory=attempt.memory,
        step_seconds=None if measured is None else float(measured),
        published=publications.places(snapshot.previous.published_digests, ledger),
    )
    return Create(object=body)


def _unlisted(snapshot: IndexedSnapshot, previous: Attempt | None) -> list[str] | None:
    """Return the digests of an attempt that the status does not list yet."""
    digests = (previous.published if previous is not None else None) or ()
    return [
        published for published in digests if published not in snapshot.previous.published_digests
    ] or None


def _number(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    previous: Attempt | None,
) -> int:
    """Return the number of the next attempt.

    No Job of an attempt that is still "Starting" was recorded: its number is used again.
    """
    if previous is not None and previous.outcome == "Starting":
        return previous.attempt
    present = [
        job.attempt or 0
        for job in snapshot.jobs
        if job.owned and job.revision == target.revision and job.stage == stage.name
    ]
    recorded = [
        attempt.attempt
        for attempt in ledger.revision(target.revision).stages
        if attempt.stage == stage.name
    ]
    return max([*present, *recorded], default=0) + 1
