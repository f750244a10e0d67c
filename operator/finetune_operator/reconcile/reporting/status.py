"""The job's status, written from the decisions of a reconcile."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.status.job import MAX_WARNING_LENGTH
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import desired
from finetune_operator.objects.status_view import StatusView
from finetune_operator.reconcile import storage
from finetune_operator.reconcile.conditions import conditions
from finetune_operator.reconcile.publishing.step import Publishing
from finetune_operator.reconcile.record import Record
from finetune_operator.reconcile.reporting.columns import columns
from finetune_operator.reconcile.reporting.serving_status import serving_status
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.reconcile.serving.delivery import Delivery
from finetune_operator.reconcile.stages.progress import preparation_status, training_status
from finetune_operator.revisions.target import TargetRevision

MOST_WARNINGS = 32
"""Limit of the CRD."""


def render(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    delivery: Delivery,
    record: Record,
    publishing: Publishing,
    *,
    warnings: Iterable[str],
    now: datetime,
) -> dict[str, Any]:
    """Return the whole status. warnings: those of this reconcile, of all parts."""
    ledger, position = record.ledger, delivery.position
    previous = snapshot.previous
    earlier = previous.warnings if previous.is_about(target.revision) else ()
    # Pods and the container runtime write parts of the warnings.
    shortened = [warning[:MAX_WARNING_LENGTH] for warning in warnings]
    every_warning = list(dict.fromkeys([*earlier, *shortened]))[:MOST_WARNINGS]
    preparation = preparation_status(snapshot, target.revision, ledger)
    training = training_status(snapshot, target.revision, ledger, record.measured)
    status: dict[str, Any] = {
        "observedGeneration": snapshot.job["metadata"]["generation"],
        "conditions": conditions(
            position,
            previous=previous.conditions,
            generation=snapshot.job["metadata"]["generation"],
            now=now,
            stages={
                stage: ledger.latest(target.revision, stage, target.build)
                for stage in desired(target.resolved.spec)
            },
            serving=delivery.state,
            succeeded=_succeeded_before(previous, target.revision),
            publishing=publishing.state,
        ),
        "revision": target.revision,
        "build": target.build,
        **columns(snapshot, target.revision, position, preparation=preparation, training=training),
        "warnings": every_warning,
        "warningCount": len(every_warning) or None,
        "preparation": preparation,
        "training": training,
        "volumeOwners": storage.volume_owners(snapshot, ledger),
        "ledgerVersion": ledger.version,
        "revisions": ledger.to_status(),
    }
    if target.config.profile is not None:
        status["profile"] = target.config.profile.name
    status |= record.costs
    if ledger.is_trained(target.revision):
        gate = evaluation_gate.gate(previous, target, ledger, delivery.serving)
        status["evaluation"] = gate.to_status().model_dump(mode="json", by_alias=True)
    if digests := publishing.digests(previous, ledger):
        status["publishedDigests"] = digests
    if publishing.state is not None:
        status["publish"] = publishing.to_status(target, ledger)
    return status | serving_status(snapshot, target, delivery, ledger)


def _succeeded_before(previous: StatusView, revision: str) -> bool:
    succeeded = previous.conditions.get("Succeeded", {})
    return previous.is_about(revision) and succeeded.get("status") == "True"
