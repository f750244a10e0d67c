"""The Job stages: which of them is under way, what to start, and what must not go on.

Of each stage the ledger says whether it has completed, failed for good, or is under way; what is
under way is looked up among the Jobs. Every look starts from the first stage, so there is no state
but what the cluster holds.
"""

from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.ledger import Attempt
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import jobs
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pods_of
from finetune_operator.objects.naming import Stage
from finetune_operator.objects.pods import runs
from finetune_operator.reconcile import diagnosis, storage
from finetune_operator.reconcile.conditions import (
    POLL_SECONDS,
    Position,
    blocked,
    suspended,
    wanted_stages,
)
from finetune_operator.reconcile.stages import attempts, outcome, restarts
from finetune_operator.reconcile.stages.cancellation import UNDER_WAY, Stopping
from finetune_operator.reconcile.stages.preconditions import in_the_way, want_their_volume
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Delete, Event, Object, Snapshot

IN_PROGRESS = {
    "prepare": Reason.PREPARING,
    "train": Reason.TRAINING,
    "merge": Reason.MERGING,
}
DOING: dict[str, str] = {
    "prepare": "downloading, checking and tokenising model and data",
    "train": "training the adapter",
    "merge": "merging base and adapter",
}
SLOW_POLL_SECONDS = 60.0
SLOW_AFTER_SECONDS = 300.0


class Stages:
    """One look at the Job stages.

    ``position`` fills ``starts``, the actions that begin something, ``warnings`` and ``events``,
    and writes into the ledger what it finds; what it ends is in ``stopping``.
    """

    def __init__(
        self, snapshot: Snapshot, target: TargetRevision, ledger: Ledger, now: datetime
    ) -> None:
        self.snapshot, self.target, self.ledger, self.now = snapshot, target, ledger, now
        self.job = snapshot.job
        self.spec = target.resolved.spec
        self.wanted = wanted_stages(self.spec)
        self.jobs = {
            job["metadata"]["name"]: job for job in snapshot.jobs if naming.owned_by(self.job, job)
        }
        self.volume = storage.present(self.job, target.revision, snapshot.volumes)
        self.stopping = Stopping(self.jobs.values(), target, self.wanted, ledger)
        self.starts: list[Action] = []
        self.warnings: list[str] = []
        self.events: list[Event] = []

    def position(self) -> Position | None:
        """Return where the job stands in its first unfinished stage, None where all completed."""
        self.stopping.abandon_others()
        if waiting := self._without_volume():
            return waiting
        for stage in self.wanted:
            position = self._at(stage)
            if position is not None:
                return position
        return None

    def _without_volume(self) -> Position | None:
        """See to a volume that somebody deletes, or has deleted, with what was made on it.

        Nothing can stop such a deletion, and what still runs would run for nothing. What has
        finished stays finished: it is not done again before somebody asks for it.
        """
        record = self.ledger.revision(self.target.revision)
        made = any(attempt.outcome == "Completed" for attempt in record.stages)
        uid = self.volume["metadata"]["uid"] if self.volume is not None else None
        going = self.volume is not None and "deletionTimestamp" in self.volume["metadata"]
        if not going and (not made or (uid is not None and record.volume in (None, uid))):
            return None
        held = going and self._old_build_keeps_it() and not self.spec.suspend
        if not held and all(self._completed(stage) for stage in self.wanted):
            return self._model_lost() if self.volume is None else None
        for job in self.jobs.values():
            if not is_over(job):
                self.stopping.stop(job)
        if held:
            return Position(
                state="stalled",
                reason=Reason.VOLUME_LOST,
                message=f"volume {self._claim} is being deleted, and what serves holds it: set "
                "spec.rerun to a new value to train again beside it, or spec.serving.replicas to 0",
            )
        if going:
            message = f"waiting for volume {self._claim} to be deleted"
            return None if self.spec.suspend else _active(Reason.WAITING_FOR_VOLUME, message)
        self.ledger.lose_volume(self.target.revision, Reason.VOLUME_LOST)
        self._say(
            Reason.VOLUME_LOST,
            f"volume {self._claim} was deleted by somebody: starting again from the prepare stage",
        )
        return None

    def _old_build_keeps_it(self) -> bool:
        """Tell whether another build of this revision serves from its volume, and so keeps it."""
        others = [
            pod
            for pod in self.snapshot.pods
            if naming.label(pod, naming.BUILD) != self.target.build
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return runs(others, "serve", self.target.revision)

    def _model_lost(self) -> Position | None:
        if not self.spec.serving.enabled:
            return None
        return Position(
            state="stalled",
            reason=Reason.VOLUME_LOST,
            message=f"volume {self._claim}, which held the model, was deleted: "
            "set spec.rerun to a new value to train it again",
        )

    def _completed(self, stage: Stage) -> bool:
        attempt = self.ledger.attempt(self.target.revision, stage, self._build(stage))
        return attempt is not None and attempt.outcome == "Completed"

    def _at(self, stage: Stage) -> Position | None:
        """Return where the job stands in a stage, or None if it has completed."""
        attempt = self.ledger.attempt(self.target.revision, stage, self._build(stage))
        if attempt is not None and attempt.outcome == "Completed":
            return None
        if attempt is not None and attempt.outcome == "Failed":
            if attempt.retry_key == attempts.retry_key(self.target, stage):
                return Position(
                    state="stalled",
                    reason=attempt.reason or Reason.FAILED,
                    message=attempt.message or f"the {stage} stage failed",
                )
        elif attempt is not None and attempt.outcome in UNDER_WAY:
            job = self.jobs.get(self._name(stage, attempt.attempt))
            # One that ended tells its end even while it is being deleted.
            if job is not None and is_over(job):
                return self._ended(stage, attempt, job)
            if job is not None and "deletionTimestamp" not in job["metadata"]:
                return self._follow(stage, attempt, job)
            if job is not None or attempt.outcome == "Running":
                name = self._name(stage, attempt.attempt)
                attempt = self._record(attempt, outcome="Stopped", reason=Reason.JOB_DELETED)
                self._say(
                    Reason.JOB_DELETED, f"Job {name} was deleted by somebody: another follows"
                )
        return self._start(stage, attempt)

    def _follow(self, stage: Stage, attempt: Attempt, job: Object) -> Position | None:
        """Return where a Job stands that has not ended, and whether it may go on."""
        attempt = self._record(restarts.counted(attempt, job, self.snapshot.pods))
        own = pods_of(job, self.snapshot.pods)
        if self.spec.suspend:
            self.stopping.stop(job)
            return suspended()
        if restarts.capped(attempt) > self.spec.run_policy.max_restarts:
            self.stopping.stop(job)
            return self._too_many(stage, attempt)
        if outcome.out_of_memory(job, own):
            if self._may_have_more(stage, attempt):
                self.stopping.stop(job, reason=Reason.OUT_OF_MEMORY)
                return self._at(stage)
            if attempt.memory is not None:
                # Twice as much was not enough either, and its Job would try again with no more.
                why = {"reason": Reason.OUT_OF_MEMORY, "message": outcome.killed_for_memory(job)}
                self.stopping.stop(job, outcome="Failed", **why)
                return self._at(stage)
        idle = all(pod.get("status", {}).get("phase") != "Running" for pod in own)
        if idle and attempt.retry_key != attempts.retry_key(self.target, stage):
            # It waits for something that an edit may have mended.
            self.stopping.stop(job)
            return self._at(stage)
        if self.volume is None:
            self.starts += storage.ensure(self.job, self.target, self.snapshot.volumes)
        return self._under_way(stage, attempt, job)

    def _ended(self, stage: Stage, attempt: Attempt, job: Object) -> Position | None:
        """Return where a Job's end leaves the stage, None where it has completed."""
        ended = outcome.of(job, self.snapshot.pods)
        assert ended is not None, "it is over"
        attempt = self._record(restarts.counted(attempt, job, self.snapshot.pods))
        if ended.result is not None:
            self.ledger.note(self.target.revision, ended.result.artifacts)
            self.warnings += ended.result.warnings
        if ended.kind == "Completed":
            dtype = ended.result and ended.result.artifacts.get("mergedDtype")
            self._record(
                attempt,
                outcome="Completed",
                reason=None,
                message=ended.message or None,
                merged_dtype=dtype if isinstance(dtype, str) else None,
            )
            if self.volume is not None:
                self.ledger.keep_on(self.target.revision, self.volume["metadata"]["uid"])
            return None
        again = (ended.reason == Reason.OUT_OF_MEMORY and self._may_have_more(stage, attempt)) or (
            # Bounded as failures are, or a trainer that leaves no result would run for ever.
            ended.kind == "Unproved"
            and (attempt.failures or 0) < self.spec.run_policy.backoff_limit
        )
        self._record(
            attempt,
            outcome="Stopped" if again else "Failed",
            reason=ended.reason,
            message=ended.message or None,
        )
        return self._at(stage)

    def _may_have_more(self, stage: Stage, attempt: Attempt) -> bool:
        """Tell whether a stage that ran out of memory may have more of it, which it may once."""
        own = stage == "merge" and attempt.memory is None
        return own and jobs.more_memory(self.spec.resources.merge) is not None

    def _too_many(self, stage: Stage, attempt: Attempt) -> Position | None:
        self._record(
            attempt,
            outcome="Failed",
            reason=Reason.TOO_MANY_RESTARTS,
            message=f"the {stage} stage was started again {restarts.capped(attempt)} times, "
            f"runPolicy.maxRestarts is {self.spec.run_policy.max_restarts}: "
            "raise it to at least that to go on from where it was",
        )
        return self._at(stage)

    def _record(self, attempt: Attempt, **changes: Any) -> Attempt:
        changed = attempt.model_copy(update=changes)
        self.ledger.record(self.target.revision, changed)
        return changed

    def _say(self, reason: Reason, message: str) -> None:
        self.events.append(Event(type="Warning", reason=reason, message=message))

    def _under_way(self, stage: Stage, attempt: Attempt, job: Object) -> Position:
        own = pods_of(job, self.snapshot.pods)
        has_run = bool(attempt.has_run) or diagnosis.started(job, own)
        gave_up = diagnosis.given_up(
            job, self.snapshot.events, before=attempt.reason == Reason.FAILED_TO_START
        )
        self._record(
            attempt,
            outcome="Running",
            has_run=has_run or None,
            reason=Reason.FAILED_TO_START if gave_up else None,
        )
        events, last_pod = self.snapshot.events, attempt.pod_created
        since = diagnosis.waiting_since(job, own, events, last_pod=last_pod)
        seconds = (self.now - datetime.fromisoformat(since)).total_seconds()
        blocker = diagnosis.of_job(job, own, events, has_run=has_run, gave_up=gave_up, since=since)
        if blocker is not None:
            deadline = self.spec.run_policy.pending_deadline_seconds
            return blocked(blocker, seconds=seconds, deadline=deadline)
        pace = POLL_SECONDS if seconds < SLOW_AFTER_SECONDS else SLOW_POLL_SECONDS
        return _active(IN_PROGRESS[stage], DOING[stage], requeue_after=pace)

    def _start(self, stage: Stage, attempt: Attempt | None) -> Position | None:
        """Start a stage, where nothing is in the way."""
        if self.spec.suspend:
            return suspended()
        obstacle = in_the_way(self.snapshot, self.target, stage)
        if obstacle is not None:
            reason, what = obstacle
            if want_their_volume(self.snapshot, self.target):
                self.starts += storage.ensure(self.job, self.target, self.snapshot.volumes)
            return _active(reason, f"waiting for {what} before the {stage} stage starts")
        if (misfit := storage.misfit(self.job, self.target, self.snapshot.volumes)) is not None:
            self.stopping.actions.append(Delete(object=misfit, propagation="Background"))
            return _active(
                Reason.WAITING_FOR_VOLUME, f"making volume {self._claim} anew, as it is asked"
            )
        new = attempts.following(self.snapshot, self.target, self.ledger, stage, attempt)
        if restarts.capped(new) > self.spec.run_policy.max_restarts:
            return self._too_many(stage, new)
        self._record(new)
        self.starts += storage.ensure(self.job, self.target, self.snapshot.volumes)
        self.starts.append(attempts.creation(self.snapshot, self.target, self.ledger, stage, new))
        return _active(IN_PROGRESS[stage], DOING[stage])

    def _build(self, stage: Stage) -> str | None:
        return self.target.build if stage == "merge" else None

    def _name(self, stage: Stage, attempt: int) -> str:
        return naming.job_name(self.job["metadata"]["name"], self.target.revision, stage, attempt)

    @property
    def _claim(self) -> str:
        return naming.revision_name(self.job["metadata"]["name"], self.target.revision)


def _active(reason: str, message: str, *, requeue_after: float = POLL_SECONDS) -> Position:
    return Position(state="active", reason=reason, message=message, requeue_after=requeue_after)
