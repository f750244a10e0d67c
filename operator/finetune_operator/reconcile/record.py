"""What the ledger learns from the pods of a job, and which revisions it forgets."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Action
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import images
from finetune_operator.reconcile.reporting.cost import costs
from finetune_operator.reconcile.serving.delivery import Delivery
from finetune_operator.reconcile.stages import progress
from finetune_operator.revisions import retention
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True, kw_only=True)
class Record:
    """The ledger that the status will contain, and what follows from it."""

    ledger: Ledger
    measured: Mapping[str, Any]
    """Progress of training as this reconcile knows it, whose GPU-seconds are in the ledger."""

    costs: Mapping[str, Any]
    """``status.cost``, ``status.budget`` and ``status.queuePosition``, if the status has them."""

    actions: tuple[Action, ...]
    """Deletions of what belongs to forgotten revisions."""

    warnings: tuple[str, ...]


def record(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    before: Ledger,
    decided: Ledger,
    delivery: Delivery,
    now: datetime,
) -> Record:
    """Return the ledger after all decisions.

    before: the ledger of the previous status; decided: that of the last decision.
    """
    identified = images.with_serving(snapshot, decided)
    ledger, pruned = retention.prune(
        snapshot,
        target,
        identified,
        before=before,
        serving=delivery.serving,
        awaits_volume=delivery.position.reason == Reason.WAITING_FOR_VOLUME,
    )
    measured = progress.measure(snapshot, target, ledger)
    ledger = progress.with_gpu_seconds(snapshot, target, ledger, measured, now)
    return Record(
        ledger=ledger.with_card(
            target.revision, progress.checkpoint_card(snapshot, target, ledger)
        ),
        measured=measured,
        costs=costs(snapshot, target, ledger, delivery.position, now),
        actions=tuple(pruned),
        warnings=images.warnings(before, identified, target),
    )
