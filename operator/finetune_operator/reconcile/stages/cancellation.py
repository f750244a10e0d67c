"""Which Jobs are ended before their time, and what the ledger says of it."""

from collections.abc import Collection
from typing import Any

from finetune_api.v1alpha1.ledger import Attempt
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over
from finetune_operator.objects.naming import Stage
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Delete, Object

UNDER_WAY = ("Starting", "Running")


class Stopping:
    """What one look stops, as ``actions``.

    jobs: the job's own; wanted: the stages that its spec asks for.
    """

    def __init__(
        self,
        jobs: Collection[Object],
        target: TargetRevision,
        wanted: Collection[Stage],
        ledger: Ledger,
    ) -> None:
        self.jobs, self.target, self.wanted, self.ledger = jobs, target, wanted, ledger
        self.actions: list[Action] = []

    def abandon_others(self) -> None:
        """Stop what runs for a revision, a build or a stage that is no longer asked for.

        Also what was to be stopped before: the operator may have died between the ledger's word
        and the deed.
        """
        for job in self.jobs:
            revision, build = naming.label(job, naming.REVISION), naming.label(job, naming.BUILD)
            if revision is None or is_over(job):
                continue
            wanted = (
                revision == self.target.revision
                and build in (None, self.target.build)
                and naming.label(job, naming.STAGE) in self.wanted
            )
            attempt = self._attempt_of(job, revision, build)
            if not wanted or (attempt is not None and attempt.outcome not in UNDER_WAY):
                self.stop(job)

    def stop(self, job: Object, **why: str) -> None:
        """Stop a Job. why: what its attempt ended with, where that was nobody's wish."""
        stopped = any(stop.object is job for stop in self.actions)
        if not stopped and "deletionTimestamp" not in job["metadata"]:
            self.actions.append(Delete(object=job))
        revision = str(naming.label(job, naming.REVISION))
        attempt = self._attempt_of(job, revision, naming.label(job, naming.BUILD))
        if attempt is not None and attempt.outcome in UNDER_WAY:
            ended = {"outcome": "Stopped", "reason": None, "message": None, **why}
            self.ledger.record(revision, attempt.model_copy(update=ended))

    def _attempt_of(self, job: Object, revision: str, build: str | None) -> Attempt | None:
        stage: Any = naming.label(job, naming.STAGE)
        return self.ledger.attempt(revision, stage, build)
