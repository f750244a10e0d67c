"""What the operator does after an edit, derived from digests and the ledger. Pure.

A generated test compares the result with the planner of the operator, for each field of the spec.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.defaulting import Resolved
from finetune_api.edits.changes import Change
from finetune_api.markers import Edit
from finetune_api.outcome import merges, serves, shares
from finetune_api.revision_hash import part_of
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import TrackingServer
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import Attempt, Revision


class Effect(StrEnum):
    """What is repeated after an edit, the most expensive first."""

    RETRAIN = "retrain"
    REMERGE = "re-merge"
    ROLL = "roll"
    RETRY = "retry"
    PUBLISH = "publish"
    NOTHING = "nothing"


OF_PODS = ("queueName", "priorityClassName")
"""Fields of the class retry that serving pods have, too, besides ``placement``."""
PLACEMENT = "placement"
SELECTS_STAGES = (("merge", "enabled"), ("serving", "enabled"))
"""Fields that take effect at once, but may start a merge, or data preparation that has failed."""


@dataclass(frozen=True, kw_only=True)
class RecordedRevisions:
    """What is known about the revisions of a job. Without records, all its work is complete."""

    records: tuple[Revision, ...] = ()
    serving: str | None = None
    """Name of the serving build, None if it is not known."""

    def record(self, digest: str) -> Revision | None:
        """Return the record of a revision, None if it is not retained."""
        matching = (
            record for record in self.records if record.frozen and record.frozen.digest == digest
        )
        return next(matching, None)

    def is_trained(self, digest: str) -> bool:
        """Report whether the training of a revision is complete."""
        record = self.record(digest)
        if record is None:
            return not self.records
        return any(
            attempt.outcome == "Completed" for attempt in record.stages if attempt.stage == "train"
        )

    def is_merged(self, resolved: Resolved) -> bool:
        """Report whether the merge of a build is complete."""
        record = self.record(resolved.digest)
        return record is not None and any(
            attempt.stage == "merge"
            and attempt.outcome == "Completed"
            and attempt.build_digest == resolved.build_digest
            for attempt in record.stages
        )

    @property
    def serves(self) -> bool:
        """Whether a build of the job has been served."""
        stages = [attempt for record in self.records for attempt in record.stages]
        return not self.records or any(attempt.stage == "serve" for attempt in stages)

    def latest(self, resolved: Resolved) -> Attempt | None:
        """Return the attempt at the last stage that a job has reached, None if there is none."""
        record = self.record(resolved.digest)
        if record is None:
            return None
        own = [
            attempt
            for attempt in record.stages
            if attempt.build_digest in (None, resolved.build_digest)
        ]
        ended = [
            attempt
            for attempt in own
            if attempt.outcome != "Completed" and attempt.stage != "publish"
        ]
        return ended[-1] if ended else None


def effects(
    before: Resolved, after: Resolved, ledger: RecordedRevisions, *, other_card: bool = False
) -> frozenset[Effect]:
    """Return what an edit repeats. other_card: whether another profile has another GPU model."""
    repeated: set[Effect] = set()
    if after.digest != before.digest:
        trained = ledger.record(after.digest) is not None and ledger.is_trained(after.digest)
        if not trained:
            return frozenset({Effect.RETRAIN})
    if _merges_again(before, after, ledger):
        repeated.add(Effect.REMERGE)
    if ledger.serves and _rolls(before, after, ledger, other_card=other_card):
        repeated.add(Effect.ROLL)
    if _retries(before, after, ledger):
        repeated.add(Effect.RETRY)
    if _publishes(before, after, ledger):
        repeated.add(Effect.PUBLISH)
    return frozenset(repeated or {Effect.NOTHING})


def effect_of(change: Change, whole: Iterable[Effect]) -> Effect:
    """Return the effect of one changed field. whole: the effects of the whole edit."""
    possible: set[Effect] = set()
    for edit in change.edits:
        possible |= POSSIBLE[edit]
    if change.path[0] in (PLACEMENT, *OF_PODS):
        possible.add(Effect.ROLL)
    if change.path in SELECTS_STAGES:
        possible |= {Effect.REMERGE, Effect.RETRY}
    return next(
        (effect for effect in Effect if effect in possible and effect in whole), Effect.NOTHING
    )


POSSIBLE = {
    Edit.RETRAIN: {Effect.RETRAIN, Effect.REMERGE, Effect.ROLL},
    Edit.REMERGE: {Effect.REMERGE, Effect.ROLL, Effect.RETRY, Effect.PUBLISH},
    Edit.ROLL: {Effect.ROLL, Effect.RETRY},
    Edit.RETRY: {Effect.RETRY},
    Edit.PUBLISH: {Effect.PUBLISH},
    Edit.NEXT_REVISION: set[Effect](),
    Edit.PROFILE: {Effect.ROLL},
    Edit.NOTHING: set[Effect](),
}
"""Effects that a change of a field of an edit class can have, as the state of the job decides."""


def _merges_again(before: Resolved, after: Resolved, ledger: RecordedRevisions) -> bool:
    if not merges(after.spec) or not ledger.is_trained(after.digest) or ledger.is_merged(after):
        return False
    return before.build_digest != after.build_digest or not merges(before.spec)


def _rolls(
    before: Resolved, after: Resolved, ledger: RecordedRevisions, *, other_card: bool
) -> bool:
    if not (serves(before.spec) and serves(after.spec)):
        return False
    if before.build_digest != after.build_digest and ledger.serving != after.build:
        return True
    return other_card or _of_pods(before.spec) != _of_pods(after.spec)


def _of_pods(spec: FineTuneJobSpec) -> Any:
    """Return the values that the serving pods have, except for those of the build."""
    placement = spec.serving.placement or spec.placement
    placed = placement.model_dump(mode="json", exclude_none=True)
    return placed, spec.queue_name, spec.priority_class_name, part_of(spec, Edit.ROLL)


def _retries(before: Resolved, after: Resolved, ledger: RecordedRevisions) -> bool:
    """Report whether a stage that has failed, or has not started yet, gets another attempt."""
    attempt = ledger.latest(after)
    if attempt is None or before.digest != after.digest:
        return False
    waits = attempt.outcome == "Starting" and attempt.stage != "serve"
    if not waits and attempt.outcome != "Failed":
        return False
    return _retry_key(before, attempt.stage) != _retry_key(after, attempt.stage)


def _retry_key(resolved: Resolved, stage: str) -> object:
    if stage == "serve":
        return resolved.serve_key
    if stage == "prepare":
        # It also checks whether the model can be served, by the pods of the job or of an endpoint.
        spec = resolved.spec
        return resolved.retry_key, ServingSettings.of(spec), merges(spec), _endpoint(spec)
    return resolved.retry_key


def _publishes(before: Resolved, after: Resolved, ledger: RecordedRevisions) -> bool:
    """Report whether a target does not hold the model under all its names."""
    if not ledger.is_trained(after.digest):
        return False
    old, new = _targets(before.spec), _targets(after.spec)
    if _publish_part(before) == _publish_part(after) and before.build_digest == after.build_digest:
        return False
    if shares(after.spec) and _endpoint(before.spec) != _endpoint(after.spec):
        return True
    if any(not _holds(old.get(name), target) for name, target in new.items()):
        return True
    record = ledger.record(after.digest)
    failed = record is not None and any(
        attempt.stage == "publish" and attempt.outcome == "Failed" for attempt in record.stages
    )
    return failed or (before.build_digest != after.build_digest and "merged" in _contents(new))


def _contents(targets: dict[str, PublishTarget]) -> set[str]:
    return {target.what for target in targets.values()}


def _publish_part(resolved: Resolved) -> Any:
    return part_of(resolved.spec, Edit.PUBLISH)


def _targets(spec: FineTuneJobSpec) -> dict[str, PublishTarget]:
    tracking = () if spec.tracking is None else (TrackingServer.of(spec.tracking),)
    return {target.name: target for target in (*(spec.publish or ()), *tracking)}


def _endpoint(spec: FineTuneJobSpec) -> object:
    """Return the FineTuneEndpoint to which the adapter is published, None without one."""
    return spec.serving.endpoint_ref if shares(spec) else None


def _holds(before: PublishTarget | None, after: PublishTarget) -> bool:
    """Report whether a target has the same content under all names, with the same links."""
    if before is None or before.destination != after.destination or before.what != after.what:
        return False
    if isinstance(before, TrackingServer) and isinstance(after, TrackingServer):
        old, new = before.mlflow, after.mlflow
        if (old.experiment, old.registered_model) != (new.experiment, new.registered_model):
            return False
    return {*after.moving_names} <= {*before.moving_names}
