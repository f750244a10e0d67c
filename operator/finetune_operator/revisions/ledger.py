"""The ledger: which stage of which revision was attempted how often, and how that ended.

It lives in ``status.revisions`` because children come and go, and a deleted Job takes its evidence
along. It is written before any create or delete that depends on it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.v1alpha1.ledger import Artifacts, Attempt, Data, Estimate, Revision
from finetune_operator.objects.naming import Stage


class Ledger:
    """A working copy of the ledger, for the length of one plan."""

    def __init__(self, revisions: Iterable[Mapping[str, Any]]) -> None:
        parsed = (Revision.model_validate(revision) for revision in revisions)
        self._revisions = {revision.revision: revision for revision in parsed}

    def revision(self, revision: str) -> Revision:
        """Return the record of a revision, an empty one where there is none yet."""
        return self._revisions.get(revision, Revision(revision=revision))

    def attempt(self, revision: str, stage: Stage, build: str | None = None) -> Attempt | None:
        """Return the latest attempt at a stage, or None."""
        for attempt in self.revision(revision).stages:
            if (attempt.stage, attempt.build) == (stage, build):
                return attempt
        return None

    def record(self, revision: str, attempt: Attempt) -> None:
        """Write the latest attempt at a stage, in place of the one before."""
        present = self.revision(revision)
        key = (attempt.stage, attempt.build)
        stages = [known for known in present.stages if (known.stage, known.build) != key]
        position = next(
            (i for i, known in enumerate(present.stages) if (known.stage, known.build) == key),
            len(stages),
        )
        stages.insert(position, attempt)
        self._change(revision, stages=stages)

    def want(self, revision: str) -> None:
        """Make a revision that is there the newest of all."""
        if revision in self._revisions:
            self._revisions[revision] = self._revisions.pop(revision)

    def names(self) -> list[str]:
        """Return the revisions, the one that was wanted longest ago first."""
        return list(self._revisions)

    def forget(self, revision: str) -> None:
        """Drop the record of a revision, whose children go."""
        self._revisions.pop(revision, None)

    def completed(self, revision: str, stage: Stage) -> bool:
        """Tell whether a stage of a revision has completed, for one build at least."""
        return any(
            (attempt.stage, attempt.outcome) == (stage, "Completed")
            for attempt in self.revision(revision).stages
        )

    def revision_of(self, build: str) -> str | None:
        """Return the revision that a merged build belongs to, or None."""
        for revision in self._revisions.values():
            if any(attempt.build == build for attempt in revision.stages):
                return revision.revision
        return None

    def keep_on(self, revision: str, volume: str | None) -> None:
        """Note the volume (uid) that holds what the revision's stages made."""
        self._change(revision, volume=volume)

    def lose_volume(self, revision: str, reason: str) -> None:
        """Note that what the revision's stages made is gone: each has to be done again.

        What their pods still report is of that volume, too, so they are forgotten.
        """
        present = self.revision(revision)
        over = {"outcome": "Stopped", "reason": reason, "message": None}
        stages = [
            attempt.model_copy(
                update={
                    "pod": None,
                    **(over if attempt.outcome in ("Starting", "Running", "Completed") else {}),
                }
            )
            for attempt in present.stages
        ]
        self._change(revision, stages=stages, volume=None, gpu_seconds_lost=present.gpu_seconds)

    def spent(self, revision: str, gpu_seconds: int | None) -> int | None:
        """Note what the trainer reports of the present volume; return what was spent in all.

        The figure never goes down, whoever reports less.
        """
        present = self.revision(revision)
        if gpu_seconds is not None:
            total = gpu_seconds + (present.gpu_seconds_lost or 0)
            self._change(revision, gpu_seconds=max(total, present.gpu_seconds or 0))
        return self.revision(revision).gpu_seconds

    def _change(self, revision: str, **changes: Any) -> None:
        self._revisions[revision] = self.revision(revision).model_copy(update=changes)

    def note(self, revision: str, findings: Mapping[str, Any]) -> None:
        """Keep what a stage reported: digests, counts, estimates, by their names in ``Result``."""
        present = self.revision(revision)
        artifacts = present.artifacts.model_dump(by_alias=True) | _known(Artifacts, findings)
        data = present.data.model_dump(by_alias=True) | _known(Data, findings)
        before = present.estimate.model_dump(by_alias=True) if present.estimate else {}
        estimate = before | _known(Estimate, findings)
        self._change(
            revision,
            artifacts=Artifacts.model_validate(artifacts),
            data=Data.model_validate(data),
            estimate=Estimate.model_validate(estimate) if estimate else None,
        )

    def to_status(self) -> list[dict[str, Any]]:
        """Return the ledger as it stands in ``status.revisions``."""
        return [
            revision.model_dump(mode="json", by_alias=True, exclude_none=True)
            for revision in self._revisions.values()
        ]


Group = Artifacts | Data | Estimate


def _known(model: type[Group], findings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those findings that a model has a place for.

    The trainer may be of another version than the operator: what it says in a form that is not
    ours is left out, or no look at the job would ever succeed again.
    """
    names = {info.alias or name for name, info in model.model_fields.items()}
    return {
        name: value
        for name, value in findings.items()
        if name in names and _fits(model, {name: value})
    }


def _fits(model: type[Group], finding: Mapping[str, Any]) -> bool:
    try:
        model.model_validate(finding)
    except ValidationError:
        return False
    return True
