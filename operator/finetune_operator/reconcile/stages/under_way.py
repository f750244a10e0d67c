"""An attempt that is under way: follow its Job, stop it, or record its end."""

from datetime import datetime

from finetune_api.contracts.result import MergeArtifacts
from finetune_api.v1alpha1.ledger import Attempt, TrainArtifacts
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import jobs
from finetune_operator.objects import naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile import diagnosis, images, storage
from finetune_operator.reconcile.blocker import evidence
from finetune_operator.reconcile.conditions import (
    DOING,
    IN_PROGRESS,
    POLL_SECONDS,
    active,
    blocked,
    suspended,
)
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, outcome, queueing, restarts
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event

SLOW_POLL_SECONDS = 60.0
SLOW_AFTER_SECONDS = 300.0


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
        if named.uid not in snapshot.created:
            return _identify(snapshot, target, ledger, attempt, named)
        attempt = attempt.model_copy(update={"job": named.uid})
        ledger = ledger.with_attempt(target.revision, attempt)
    job = snapshot.job_of(target.revision, attempt)
    if job is not None:
        attempt = images.recorded(attempt, snapshot.pods_of(job), jobs.CONTAINER)
        ledger = ledger.with_attempt(target.revision, attempt)
    # A Job that has finished has its result even while it is terminating.
    if job is not None and job.ended:
        return _record_end(snapshot, target, ledger, attempt, job)
    if job is not None and not job.terminating:
        return _follow(snapshot, target, ledger, attempt, job, now)
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
    """
    spec = target.resolved.spec
    if spec.suspend or attempt.retry_key != attempts.retry_key(target, attempt.stage):
        return stop(ledger, named)
    return Decision(
        ledger=ledger,
        position=active(IN_PROGRESS[attempt.stage], DOING[attempt.stage]),
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


def _follow(
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
        if _may_have_more_memory(target, attempt):
            return stop(ledger, job, reason=Reason.OUT_OF_MEMORY)
        if attempt.memory is not None:
            # The doubled memory was not enough either; its Job would only repeat that.
            message = outcome.killed_for_memory(job.object)
            return stop(ledger, job, outcome="Failed", reason=Reason.OUT_OF_MEMORY, message=message)
    # After a pod has succeeded, it takes a moment until its Job is complete.
    busy = any(pod.get("status", {}).get("phase") in ("Running", "Succeeded") for pod in pods)
    if not busy and attempt.retry_key != attempts.retry_key(target, attempt.stage):
        # The edit may have fixed what it waits for.
        return stop(ledger, job)
    if snapshot.volume(target.revision) is not None:
        return _running(snapshot, target, ledger, attempt, job, now)
    ledger = ledger.with_untrusted_volume(target.revision, None)
    create = tuple(storage.ensure(snapshot.job, target, None))
    following = _running(snapshot, target, ledger, attempt, job, now)
    return Decision(ledger=ledger, actions=create).then(following)


def _running(
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
    trains, card = attempt.stage == "train", ledger.revision(target.revision).card
    blocker = diagnosis.of_job(
        job.object,
        pods,
        evidence(snapshot, target, gpu=trains, card=card if trains else None),
        has_run=has_run,
        failed_to_start=failed,
        since=since,
    )
    warnings = queueing.warnings(job.object, has_run=has_run)
    # A block that began in the future is reported: the clock was set back.
    if blocker is not None and not 0 <= seconds < blocker.grace:
        deadline = target.resolved.spec.run_policy.pending_deadline_seconds
        return Decision(
            ledger=ledger,
            position=blocked(blocker, seconds=seconds, deadline=deadline),
            warnings=warnings,
        )
    pace = POLL_SECONDS if seconds < SLOW_AFTER_SECONDS else SLOW_POLL_SECONDS
    stage = attempt.stage
    return Decision(
        ledger=ledger,
        position=active(IN_PROGRESS[stage], DOING[stage], requeue_after=pace),
        warnings=warnings,
    )


def _record_end(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    job: Child,
) -> Decision:
    """Return the decision about a Job that has finished: the attempt's outcome and findings."""
    revision, volume = target.revision, snapshot.volume(target.revision)
    pods = snapshot.pods_of(job)
    ended = outcome.of(job.object, pods)
    assert ended is not None, "the Job has finished"
    attempt = restarts.counted(attempt, job.object, pods)
    result = ended.result
    # A pod that reports the artifacts of another stage has forged them.
    artifacts = result.artifacts if result and result.stage == attempt.stage else None
    warnings = tuple(result.warnings) if result is not None else ()
    changes = {"reason": ended.reason, "message": ended.message or None}
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
    if artifacts is not None:
        ledger = ledger.with_artifacts(revision, artifacts)
    ledger = ledger.with_attempt(revision, attempt.model_copy(update=changes))
    if ended.kind == "Completed" and volume is not None:
        ledger = ledger.with_volume(revision, volume.object["metadata"]["uid"])
    return Decision(ledger=ledger, warnings=warnings)


def _again(target: TargetRevision, attempt: Attempt, ended: outcome.Outcome) -> bool:
    """Report whether a stage that did not complete is attempted again without an edit."""
    if ended.reason == Reason.OUT_OF_MEMORY and _may_have_more_memory(target, attempt):
        return True
    if ended.reason == Reason.STOPPED:
        return True
    # Limited as failures are, or a trainer that leaves no result would run for ever. After a pod
    # rejected its configuration, no attempt starts until the ConfigMap has the right content.
    limit = target.resolved.spec.run_policy.backoff_limit
    again = ended.kind == "Unproved" or ended.reason == Reason.CONFIGURATION_CHANGED
    return again and (attempt.failures or 0) < limit


def _may_have_more_memory(target: TargetRevision, attempt: Attempt) -> bool:
    """Report whether a merge that ran out of memory may have more of it, which it may once."""
    once = attempt.stage == "merge" and attempt.memory is None
    return once and jobs.more_memory(target.resolved.spec.resources.merge) is not None
