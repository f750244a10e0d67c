"""The end of an attempt whose Job has finished: outcome, findings, and whether it is repeated."""

from datetime import datetime
from typing import Any

from finetune_api.contracts.result import MergeArtifacts, PublishArtifacts, StageArtifacts
from finetune_api.v1alpha1.publishing.publication import PublicationError
from finetune_api.v1alpha1.publishing.tracking import NAME as TRACKING
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.manifests import jobs
from finetune_operator.objects import naming
from finetune_operator.objects.conditions import timestamp
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import job_stage
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, outcome, restarts, volume_loss
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import outcomes as publication_outcomes
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    job: Child,
    now: datetime,
) -> Decision:
    """Return the decision about a Job that has finished: the attempt's outcome and findings."""
    revision, volume = target.revision, snapshot.volume(target.revision)
    pods = snapshot.pods_of(job)
    ended = outcome.of(job.object, pods)
    assert ended is not None, "the Job has finished"
    attempt = attempts.timed(restarts.counted(attempt, job.object, pods), job.object)
    result = ended.result
    # A pod that reports the artifacts of another stage has forged them.
    artifacts = result.artifacts if result and result.stage == attempt.stage else None
    warnings = tuple(result.warnings) if result is not None else ()
    changes: dict[str, Any] = {"reason": ended.reason, "message": ended.message or None}
    if ended.reason == Reason.DEADLINE_EXCEEDED and not (attempt.has_run or attempt.image_id):
        changes["message"] = outcome.never_started(job.object)
    produces = not job_stage(attempt.stage).publishes
    if ended.kind == "Completed" and volume is None and produces:
        # The artifacts were deleted with the volume before the operator recorded them.
        claim = naming.revision_name(snapshot.name, revision)
        lost = attempt.model_copy(update={"outcome": "Stopped", "reason": Reason.VOLUME_LOST})
        events = (volume_loss.starts_again(claim),)
        return Decision(ledger=ledger.with_attempt(revision, lost), events=events)
    if ended.kind == "Completed":
        changes |= {"outcome": "Completed", "reason": None}
        if isinstance(artifacts, TrainArtifacts):
            # A digest of an earlier training must not outlive a training without a reference.
            ledger = ledger.without_reference(revision)
        if isinstance(artifacts, MergeArtifacts):
            changes |= {
                "merged_dtype": artifacts.merged_dtype,
                "merged_manifest": artifacts.merged_manifest,
            }
    else:
        changes["outcome"] = "Stopped" if _again(target, attempt, ended) else "Failed"
    if job_stage(attempt.stage).publishes:
        ledger, changes = _published(target, ledger, attempt, job, artifacts, changes, now)
    elif artifacts is not None:
        ledger = ledger.with_artifacts(revision, artifacts)
    ledger = ledger.with_attempt(revision, attempt.model_copy(update=changes))
    if ended.kind == "Completed" and volume is not None and produces:
        ledger = ledger.with_volume(revision, volume.object["metadata"]["uid"])
    return Decision(ledger=ledger, warnings=warnings)


def _published(
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    job: Child,
    artifacts: StageArtifacts | None,
    changes: dict[str, Any],
    now: datetime,
) -> tuple[Ledger, dict[str, Any]]:
    """Return the ledger with the outcome of each target, and the changes of the attempt.

    A Job proves what it published even if it failed. A Job that completed but does not report each
    target has failed. An attempt that is repeated by itself leaves no errors.
    """
    if not attempts.is_current(target, attempt):
        # The spec or the hub has changed, so that they do not tell where the Job has published.
        digests = dict.fromkeys([*(attempt.published or ()), *_digests(artifacts)])
        changes |= {"outcome": "Stopped", "published": [*digests] or None}
        artifacts = None
    failure = PublicationError(
        reason=changes["reason"] or Reason.RESULT_MISSING,
        message=changes["message"] or f"See the log of Job {job.name}.",
    )
    ledger = publication_outcomes.with_outcomes(
        ledger,
        target,
        attempt,
        artifacts if isinstance(artifacts, PublishArtifacts) else None,
        failure=None if changes["outcome"] == "Stopped" else failure,
        time=timestamp(now),
    )
    missing = publications.unpublished(ledger, target, attempt.targets or ())
    if changes["outcome"] == "Completed" and missing:
        message = f"Job {job.name} completed, but did not publish to {', '.join(missing)}."
        failed = {"outcome": "Failed", "reason": Reason.PUBLISH_FAILED, "message": message}
        return ledger, changes | failed
    return ledger, changes


def _digests(artifacts: StageArtifacts | None) -> list[str]:
    """Return the digests of the models that a publish Job has published."""
    targets = artifacts.targets if isinstance(artifacts, PublishArtifacts) else ()
    # A tracking server holds no model that a tag could refer to.
    return [
        target.digest for target in targets if target.digest is not None and target.name != TRACKING
    ]


def _again(target: TargetRevision, attempt: Attempt, ended: outcome.Outcome) -> bool:
    """Report whether a stage that did not complete is attempted again without an edit."""
    if ended.reason == Reason.OUT_OF_MEMORY and may_have_more_memory(target, attempt):
        return True
    if ended.reason == Reason.STOPPED:
        return True
    # Limited as failures are, or a trainer that leaves no result would run for ever. After a pod
    # rejected its configuration, no attempt starts until the ConfigMap has the right content.
    limit = target.resolved.spec.run_policy.backoff_limit
    again = ended.kind == "Unproved" or ended.reason == Reason.CONFIGURATION_CHANGED
    return again and (attempt.failures or 0) < limit


def may_have_more_memory(target: TargetRevision, attempt: Attempt) -> bool:
    """Report whether a merge that ran out of memory may have more of it, which it may once."""
    stage = job_stage(attempt.stage)
    once = stage.doubles_memory and attempt.memory is None
    return once and jobs.more_memory(jobs.resources_of(target, stage)) is not None
