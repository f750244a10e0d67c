"""The Job stages: which of them is under way, what to start, and what to stop.

Of each stage the ledger says whether it has completed, failed for good, or is under way; what is
under way is looked up among the Jobs. Every look starts from the first stage, so there is no state
but what the cluster holds.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from finetune_api.resolve import digest
from finetune_api.status import Attempt
from finetune_operator import diagnosis, outcome
from finetune_operator.children import jobs, names, volume
from finetune_operator.children.names import Stage
from finetune_operator.conditions import POLL_SECONDS, Position, blocked, suspended, wanted_stages
from finetune_operator.ledger import Ledger
from finetune_operator.revisions import Chosen
from finetune_operator.state import Action, Create, Delete, Object, Observed

IN_PROGRESS = {"stage": "Staging", "train": "Training", "merge": "Merging"}
DOING: dict[str, str] = {
    "stage": "downloading, checking and tokenising model and data",
    "train": "training the adapter",
    "merge": "merging base and adapter",
}
UNDER_WAY = ("Starting", "Running")
SLOW_POLL_SECONDS = 60.0
SLOW_AFTER_SECONDS = 300.0


class Stages:
    """One look at the Job stages.

    ``position`` fills ``stops`` and ``starts``, the actions that end and begin something, and
    ``warnings``, and writes into the ledger what it finds.
    """

    def __init__(self, seen: Observed, chosen: Chosen, ledger: Ledger, now: datetime) -> None:
        self.seen, self.chosen, self.ledger, self.now = seen, chosen, ledger, now
        self.job = seen.job
        self.spec = chosen.resolved.spec
        self.wanted = wanted_stages(self.spec)
        self.jobs = {
            job["metadata"]["name"]: job for job in seen.jobs if names.owned_by(self.job, job)
        }
        self.stops: list[Action] = []
        self.starts: list[Action] = []
        self.warnings: list[str] = []

    def position(self) -> Position | None:
        """Return where the job stands in its first unfinished stage, None where all completed."""
        self._abandon_others()
        for stage in self.wanted:
            position = self._at(stage)
            if position is not None:
                return position
        return None

    def _abandon_others(self) -> None:
        """Stop what runs for a revision, a build or a stage that is no longer asked for.

        Also what was to be stopped before: the operator may have died between the ledger's word
        and the deed.
        """
        for job in self.jobs.values():
            revision, build = names.label(job, names.REVISION), names.label(job, names.BUILD)
            if revision is None or outcome.is_over(job):
                continue
            wanted = (
                revision == self.chosen.revision
                and build in (None, self.chosen.build)
                and names.label(job, names.STAGE) in self.wanted
            )
            attempt = self._attempt_of(job, revision, build)
            if not wanted or (attempt is not None and attempt.outcome not in UNDER_WAY):
                self._stop(job, revision, build)

    def _attempt_of(self, job: Object, revision: str, build: str | None) -> Attempt | None:
        stage: Any = names.label(job, names.STAGE)
        return self.ledger.attempt(revision, stage, build)

    def _stop(self, job: Object, revision: str, build: str | None) -> None:
        if "deletionTimestamp" not in job["metadata"]:
            self.stops.append(Delete(object=job))
        attempt = self._attempt_of(job, revision, build)
        if attempt is not None and attempt.outcome in UNDER_WAY:
            self.ledger.record(revision, attempt.model_copy(update={"outcome": "Stopped"}))

    def _at(self, stage: Stage) -> Position | None:
        """Return where the job stands in a stage, or None if it has completed."""
        build = self.chosen.build if stage == "merge" else None
        attempt = self.ledger.attempt(self.chosen.revision, stage, build)
        if attempt is not None and attempt.outcome == "Completed":
            return None
        if attempt is not None and attempt.outcome == "Failed":
            if attempt.retry_key == self._retry_key(stage):
                return Position(
                    state="stalled",
                    reason=attempt.reason or "Failed",
                    message=attempt.message or f"the {stage} stage failed",
                )
        elif attempt is not None and attempt.outcome in UNDER_WAY:
            job = self.jobs.get(self._name(stage, attempt.attempt))
            # One that ended tells its end even while it is being deleted.
            if job and (outcome.is_over(job) or "deletionTimestamp" not in job["metadata"]):
                return self._follow(stage, attempt, job)
        return self._start(stage, attempt, build)

    def _follow(self, stage: Stage, attempt: Attempt, job: Object) -> Position | None:
        """Return where a Job stands, or None if it has completed; the ledger keeps its end."""
        ended = outcome.of(job, self.seen.pods)
        if ended is None:
            if self.spec.suspend:
                self._stop(job, self.chosen.revision, attempt.build)
                return suspended()
            return self._under_way(stage, attempt, job)
        if ended.result is not None:
            self.ledger.note(self.chosen.revision, ended.result.artifacts)
            self.warnings += ended.result.warnings
        if ended.kind == "Completed":
            self._record(attempt, outcome="Completed", reason=None, message=ended.message or None)
            return None
        again = (
            ended.kind == "Unproved" and self._unproved(job) <= self.spec.run_policy.backoff_limit
        )
        self._record(
            attempt,
            outcome="Stopped" if again else "Failed",
            reason=ended.reason,
            message=ended.message or None,
        )
        return self._at(stage)

    def _unproved(self, job: Object) -> int:
        """Return how many Jobs like this one ended without a result that says so.

        They are bounded as failures are, or a trainer that leaves none would hold a GPU for ever.
        """
        keys = (names.REVISION, names.BUILD, names.STAGE)
        alike = [names.label(job, key) for key in keys]
        return sum(
            [names.label(other, key) for key in keys] == alike
            and (end := outcome.of(other, self.seen.pods)) is not None
            and end.kind == "Unproved"
            for other in self.jobs.values()
        )

    def _retry_key(self, stage: Stage) -> str:
        """Return the key of what a failed stage is tried again for when it changes.

        Staging is held against how the model will be served as well; a job that was refused for
        that must not need another field's edit to go on.
        """
        key = self.chosen.resolved.retry_key
        return digest([key, jobs.estimated(self.spec)]) if stage == "stage" else key

    def _record(self, attempt: Attempt, **changes: Any) -> None:
        self.ledger.record(self.chosen.revision, attempt.model_copy(update=changes))

    def _under_way(self, stage: Stage, attempt: Attempt, job: Object) -> Position:
        own = outcome.pods_of(job, self.seen.pods)
        has_run = bool(attempt.has_run) or diagnosis.started(job, own)
        self._record(attempt, outcome="Running", has_run=has_run or None)
        since = datetime.fromisoformat(diagnosis.waiting_since(job, own))
        seconds = (self.now - since).total_seconds()
        blocker = diagnosis.of_job(job, own, self.seen.events, has_run=has_run)
        if blocker is not None:
            deadline = self.spec.run_policy.pending_deadline_seconds
            return blocked(blocker, seconds=seconds, deadline=deadline)
        pace = POLL_SECONDS if seconds < SLOW_AFTER_SECONDS else SLOW_POLL_SECONDS
        return _active(IN_PROGRESS[stage], DOING[stage], requeue_after=pace)

    def _start(self, stage: Stage, attempt: Attempt | None, build: str | None) -> Position:
        if self.spec.suspend:
            return suspended()
        if waiting := self._in_the_way(stage):
            return waiting
        number = self._next_number(stage, attempt)
        # With the key of what it is started with: an edit of that while it runs gives it another
        # attempt when it fails.
        started = Attempt(
            stage=stage,
            build=build,
            attempt=number,
            outcome="Starting",
            retry_key=self._retry_key(stage),
        )
        self.ledger.record(self.chosen.revision, started)
        self.starts += volume.ensure(self.job, self.chosen, self.seen.volumes)
        self.starts.append(Create(object=jobs.render(self.job, self.chosen, stage, number)))
        return _active(IN_PROGRESS[stage], DOING[stage])

    def _in_the_way(self, stage: Stage) -> Position | None:
        """Return what must be gone before a stage may start, or None.

        A pod may outlive its Job (a careless delete orphans it), and a Job its owner's name, which
        a new owner may have by now. So both are counted by label, whoever owns them: two trainers
        must never write one volume or hold two GPUs. A volume that is being deleted takes no more
        pods.
        """
        for reason, what in self._obstacles(stage):
            return _active(reason, f"waiting for {what} before the {stage} stage starts")
        return None

    def _obstacles(self, stage: Stage) -> Iterator[tuple[str, str]]:
        for pod in self.seen.pods:
            ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
            if names.label(pod, names.STAGE) == stage and not ended:
                yield "WaitingForPod", f"pod {pod['metadata']['name']} to end"
        for job in self.seen.jobs:
            if names.label(job, names.STAGE) == stage and not outcome.is_over(job):
                yield "WaitingForPod", f"Job {job['metadata']['name']} to end"
        claim = names.revision_name(self.job["metadata"]["name"], self.chosen.revision)
        for present in self.seen.volumes:
            if present["metadata"]["name"] == claim and "deletionTimestamp" in present["metadata"]:
                yield "WaitingForVolume", f"volume {claim} to be deleted"

    def _next_number(self, stage: Stage, attempt: Attempt | None) -> int:
        """Return the number of the next attempt.

        One that is still "Starting" was written down but never seen: its number is used again.
        """
        if attempt is not None and attempt.outcome == "Starting":
            return attempt.attempt
        seen = [
            int(names.label(job, names.ATTEMPT) or 0)
            for job in self.jobs.values()
            if names.label(job, names.REVISION) == self.chosen.revision
            and names.label(job, names.STAGE) == stage
        ]
        known = [
            known.attempt
            for known in self.ledger.revision(self.chosen.revision).stages
            if known.stage == stage
        ]
        return max([*seen, *known], default=0) + 1

    def _name(self, stage: Stage, attempt: int) -> str:
        return names.job_name(self.job["metadata"]["name"], self.chosen.revision, stage, attempt)


def _active(reason: str, message: str, *, requeue_after: float = POLL_SECONDS) -> Position:
    return Position(state="active", reason=reason, message=message, requeue_after=requeue_after)
