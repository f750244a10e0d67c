"""The ledger: how often each stage of each revision was attempted, and how that ended.

It is stored in ``status.revisions`` because children are temporary and a deleted Job takes its
evidence with it. It is written before any create or delete that depends on it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from finetune_api.base import LedgerModel
from finetune_api.contracts.result import PrepareArtifacts, StageArtifacts
from finetune_api.v1alpha1.data.statistics import Data
from finetune_api.v1alpha1.resources import Estimate, GPURelease
from finetune_api.v1alpha1.status.artifacts import Artifacts
from finetune_api.v1alpha1.status.ledger import Attempt, FrozenConfiguration, Revision
from finetune_operator.objects.stages import MERGE, PREPARE, SERVE, TRAIN, Stage, StageDefinition
from finetune_operator.revisions.versions import LEDGER_VERSION, parsed_revisions


@dataclass(frozen=True)
class Ledger:
    """The records of all retained revisions. It never changes; ``with_…`` returns another one."""

    revisions: Mapping[str, Revision] = field(default_factory=dict)
    """By name; the revision that was the target most recently is the last."""

    version: ClassVar[int] = LEDGER_VERSION
    """Of the form of ``to_status``."""

    @classmethod
    def parse(cls, revisions: Iterable[Mapping[str, Any]], version: int | None = None) -> "Ledger":
        """Return the ledger of a status.

        version: ``status.ledgerVersion``, None before the first write. Raises UnsupportedVersion.
        """
        parsed = parsed_revisions(revisions, version)
        return cls({revision.revision: revision for revision in parsed})

    def revision(self, revision: str) -> Revision:
        """Return the record of a revision, an empty one if it has none yet."""
        return self.revisions.get(revision) or Revision(revision=revision)

    def attempt(self, revision: str, stage: Stage, build: str | None = None) -> Attempt | None:
        """Return the latest attempt at a stage, or None."""
        record = self.revisions.get(revision)
        for attempt in record.stages if record is not None else ():
            if attempt.stage == stage and attempt.build == build:
                return attempt
        return None

    def latest(self, revision: str, stage: StageDefinition, build: str) -> Attempt | None:
        """Return the latest attempt at a stage, of the build if the stage depends on it."""
        return self.attempt(revision, stage.name, build if stage.per_build else None)

    def preparation(self, revision: str) -> Attempt | None:
        """Return the latest attempt at preparing the data of a revision, or None."""
        return self.attempt(revision, PREPARE.name)

    def training(self, revision: str) -> Attempt | None:
        """Return the latest attempt at training a revision, or None."""
        return self.attempt(revision, TRAIN.name)

    def merging(self, revision: str, build: str) -> Attempt | None:
        """Return the latest attempt at merging a build, or None."""
        return self.attempt(revision, MERGE.name, build)

    def serving(self, build: str) -> Attempt | None:
        """Return the latest attempt at serving a build, or None."""
        revision = self.revision_of(build)
        return None if revision is None else self.attempt(revision, SERVE.name, build)

    def frozen(self, revision: str) -> FrozenConfiguration | None:
        """Return the configuration that a revision was started with, None if it has not started."""
        record = self.revisions.get(revision)
        return None if record is None else record.frozen

    def build_digest(self, build: str) -> str | None:
        """Return the digest of a build, None if no stage of the build has started."""
        for revision in self.revisions.values():
            for attempt in revision.stages:
                if attempt.build == build:
                    return attempt.build_digest
        return None

    def names(self) -> list[str]:
        """Return the revisions, the one that was the target longest ago first."""
        return list(self.revisions)

    def is_trained(self, revision: str) -> bool:
        """Report whether the training of a revision has completed."""
        training = self.training(revision)
        return training is not None and training.outcome == "Completed"

    def is_merged(self, revision: str) -> bool:
        """Report whether a build of a revision has been merged."""
        return any(
            attempt.stage == MERGE.name and attempt.outcome == "Completed"
            for attempt in self.revision(revision).stages
        )

    def has_model(self, revision: str) -> bool:
        """Report whether a revision is trained, and not all of its builds have failed.

        A build that has served proves the model, even if another build has failed since.
        """
        builds, failed = set(), set()
        for attempt in self.revision(revision).stages:
            if attempt.stage == SERVE.name and attempt.outcome == "Completed":
                return True
            if attempt.stage in (MERGE.name, SERVE.name):
                builds.add(attempt.build)
                failed |= {attempt.build} if attempt.outcome == "Failed" else set()
        return self.is_trained(revision) and (not builds or builds != failed)

    def started_stages(self) -> set[str]:
        """Return the stages that were started at least once, for any revision."""
        return {attempt.stage for record in self.revisions.values() for attempt in record.stages}

    def revision_of(self, build: str) -> str | None:
        """Return the revision that a merged build belongs to, or None."""
        for name, revision in self.revisions.items():
            if any(attempt.build == build for attempt in revision.stages):
                return name
        return None

    def name_of(self, build: str) -> str:
        """Return the name of a build for people, with the revision that columns show."""
        revision = self.revision_of(build)
        return build if revision is None else f"{build} of revision {revision}"

    def with_attempt(self, revision: str, attempt: Attempt) -> "Ledger":
        """Return the ledger with another latest attempt at a stage."""
        key = (attempt.stage, attempt.build)
        stages = list(self.revision(revision).stages)
        for position, recorded in enumerate(stages):
            if (recorded.stage, recorded.build) == key:
                if recorded == attempt:
                    return self
                stages[position] = attempt
                break
        else:
            stages.append(attempt)
        return self._with(revision, stages=stages)

    def with_start(self, revision: str, frozen: FrozenConfiguration, attempt: Attempt) -> "Ledger":
        """Return the ledger with an attempt that starts; the first one freezes the revision."""
        ledger = self.with_attempt(revision, attempt)
        if ledger.revision(revision).frozen is not None:
            return ledger
        return ledger._with(revision, frozen=frozen)

    def with_frozen(self, revision: str, frozen: FrozenConfiguration) -> "Ledger":
        """Return the ledger with the present configuration of a revision that has started."""
        if self.frozen(revision) in (None, frozen):
            return self
        return self._with(revision, frozen=frozen)

    def with_lora_rank(self, revision: str, rank: int | None) -> "Ledger":
        """Return the ledger with the rank of a revision that has started without a record of it."""
        frozen = self.frozen(revision)
        if frozen is None or frozen.lora_rank is not None or rank is None:
            return self
        return self.with_frozen(revision, frozen.model_copy(update={"lora_rank": rank}))

    def with_target(self, revision: str) -> "Ledger":
        """Return the ledger with a recorded revision as the most recent target."""
        if revision not in self.revisions or list(self.revisions)[-1] == revision:
            return self
        others = {name: record for name, record in self.revisions.items() if name != revision}
        return Ledger({**others, revision: self.revisions[revision]})

    def without(self, revisions: Iterable[str]) -> "Ledger":
        """Return the ledger without the records of pruned revisions."""
        pruned = set(revisions)
        if not pruned:
            return self
        return Ledger(
            {name: record for name, record in self.revisions.items() if name not in pruned}
        )

    def with_volume(self, revision: str, volume: str) -> "Ledger":
        """Return the ledger with the volume (uid) that holds the artifacts of a revision."""
        return self._with(revision, volume=volume)

    def with_untrusted_volume(self, revision: str, volume: str | None) -> "Ledger":
        """Return the ledger with a volume (uid) whose files are not trusted, None for a new one."""
        return self._with(revision, untrusted_volume=volume)

    def with_lost_volume(self, revision: str, reason: str) -> "Ledger":
        """Return the ledger after the artifacts of a revision are lost: every stage is repeated.

        Its pods may still report results of that volume; their uids are dropped so that none is
        counted.
        """
        present = self.revision(revision)
        stopped = {"outcome": "Stopped", "reason": reason, "message": None}
        stages = [
            attempt.model_copy(
                update={
                    "pod": None,
                    **(stopped if attempt.outcome in ("Starting", "Running", "Completed") else {}),
                }
            )
            for attempt in present.stages
        ]
        return self._with(
            revision,
            stages=stages,
            volume=None,
            untrusted_volume=None,
            card=None,
            training_started=None,
            gpu_seconds_lost=present.gpu_seconds,
        )

    def with_card(self, revision: str, card: str | None) -> "Ledger":
        """Return the ledger with the card that a checkpoint depends on; the first one is kept."""
        if card is None or self.revision(revision).card is not None:
            return self
        return self._with(revision, card=card)

    def with_gpu_seconds(
        self, revision: str, reported: int, *, started: datetime, until: datetime
    ) -> "Ledger":
        """Return the ledger with the GPU-seconds that the trainer reports for the present volume.

        started: start of the oldest train pod that is known; until: end of the newest, or now. The
        pods of a revision never overlap and have one GPU each, so the time since the first of them
        started is the limit. The total never decreases, even if a pod reports less.
        """
        present = self.revision(revision)
        first = present.training_started or started.isoformat()
        limit = math.ceil((until - datetime.fromisoformat(first)).total_seconds())
        total = min(reported, max(limit, 0)) + (present.gpu_seconds_lost or 0)
        return self._with(
            revision,
            training_started=first,
            gpu_seconds=max(total, present.gpu_seconds or 0),
        )

    def with_gpu_release(self, revision: str, release: GPURelease) -> "Ledger":
        """Return the ledger with the release of the stable build's GPU to a revision."""
        return self._with(revision, gpu_release=release)

    def with_gpu_releases_ended(self, reason: str, *, but: str | None = None) -> "Ledger":
        """Return the ledger with an end of every release that has none. but: another revision."""
        ledger = self
        for name, record in self.revisions.items():
            release = record.gpu_release
            if name != but and release is not None and release.ended is None:
                ended = {"ended": reason, "waiting_since": None}
                ledger = ledger.with_gpu_release(name, release.model_copy(update=ended))
        return ledger

    def with_artifacts(self, revision: str, artifacts: StageArtifacts) -> "Ledger":
        """Return the ledger with the artifacts that a stage reports; the others are kept."""
        present = self.revision(revision)
        estimate = (present.estimate or Estimate()).model_copy(
            update=_values_of(Estimate, artifacts)
        )
        backend = artifacts.backend if isinstance(artifacts, PrepareArtifacts) else None
        return self._with(
            revision,
            artifacts=present.artifacts.model_copy(update=_values_of(Artifacts, artifacts)),
            data=present.data.model_copy(update=_values_of(Data, artifacts)),
            estimate=None if estimate == Estimate() else estimate,
            backend=backend or present.backend,
        )

    def without_reference(self, revision: str) -> "Ledger":
        """Return the ledger without the digest of the reference of an earlier training."""
        artifacts = self.revision(revision).artifacts
        return self._with(
            revision, artifacts=artifacts.model_copy(update={"reference_manifest": None})
        )

    def to_status(self) -> list[dict[str, Any]]:
        """Return the ledger in the form of ``status.revisions``."""
        return [
            revision.model_dump(mode="json", by_alias=True, exclude_none=True)
            for revision in self.revisions.values()
        ]

    def _with(self, revision: str, **changes: Any) -> "Ledger":
        changed = self.revision(revision).model_copy(update=changes)
        return Ledger({**self.revisions, revision: changed})


def _values_of(group: type[LedgerModel], artifacts: StageArtifacts) -> dict[str, Any]:
    """Return the artifacts that belong to a group of the record."""
    shared = group.model_fields.keys() & type(artifacts).model_fields.keys()
    values = {name: getattr(artifacts, name) for name in shared}
    return {name: value for name, value in values.items() if value is not None}
