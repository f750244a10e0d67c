"""The job's status, written from the decisions of a reconcile, and its transitions as events."""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import MAX_WARNING_LENGTH
from finetune_operator.manifests import serving as manifests
from finetune_operator.manifests import vllm
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import PIPELINE, STAGES
from finetune_operator.objects.status_view import StatusView
from finetune_operator.reconcile import storage
from finetune_operator.reconcile.columns import columns
from finetune_operator.reconcile.conditions import Position, ServingState
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.reconcile.stages.progress import preparation_status, training_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.revisions.versions import LEDGER_VERSION
from finetune_operator.types import Event

COMPLETED = {stage.condition: stage.completed for stage in PIPELINE}
"""Stage conditions, with the reason of the event when they become True."""
EXPECTED = {stage.in_progress for stage in STAGES}
"""Reasons of Ready while a job progresses as expected, on which no one acts: no events."""
MOST_WARNINGS = 32
"""Limit of the CRD."""


def render(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    position: Position,
    *,
    conditions: list[dict[str, Any]],
    served: ServingState | None,
    serving: str | None,
    warnings: Iterable[str],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the whole status.

    serving: the build that the Service selects, or None; measured: progress of training as this
    reconcile knows it, whose GPU-seconds are in the ledger.
    """
    previous = snapshot.previous
    known = previous.warnings if previous.is_about(target.revision) else ()
    # Pods and the container runtime write parts of the warnings.
    shortened = [each[:MAX_WARNING_LENGTH] for each in warnings]
    every_warning = list(dict.fromkeys([*known, *shortened]))[:MOST_WARNINGS]
    preparation = preparation_status(snapshot, target.revision, ledger)
    training = training_status(snapshot, target.revision, ledger, measured)
    status: dict[str, Any] = {
        "observedGeneration": snapshot.job["metadata"]["generation"],
        "conditions": conditions,
        "revision": target.revision,
        "build": target.build,
        **columns(snapshot, target.revision, position, preparation=preparation, training=training),
        "warnings": every_warning,
        "warningCount": len(every_warning) or None,
        "preparation": preparation,
        "training": training,
        "volumeOwners": storage.volume_owners(snapshot, ledger),
        "ledgerVersion": LEDGER_VERSION,
        "revisions": ledger.to_status(),
    }
    if ledger.is_trained(target.revision):
        gate = evaluation_gate.gate(previous, target, ledger, serving)
        status["evaluation"] = gate.to_status().model_dump(mode="json", by_alias=True)
    if served is not None:
        status["serving"] = {
            "revision": served.revision,
            "build": served.build,
            "replicas": served.replicas,
            "availableReplicas": served.available_replicas,
            "selector": served.selector,
            "model": vllm.names(snapshot.job, target)[0],
            "summary": served.summary,
            "releasePlannedAt": served.release_planned_at,
        }
        status["verification"] = verification_status(snapshot, served.build)
        if snapshot.service is not None:
            status["endpoint"] = manifests.endpoint(snapshot.job)
    else:
        status["serving"] = {"summary": "-"}
    return status


def new_warnings(previous: StatusView, revision: str, warnings: Iterable[str]) -> tuple[Event, ...]:
    """Return an event for each warning about a revision that the previous status did not have."""
    known = previous.warnings if previous.is_about(revision) else ()
    return tuple(
        Event(type="Warning", reason=Reason.WARNING_RAISED, message=warning)
        for warning in warnings
        if warning not in known
    )


def transitions(
    before: Mapping[str, Mapping[str, Any]], after: Iterable[Mapping[str, Any]]
) -> tuple[Event, ...]:
    """Return an event for each stage that has completed and each new reason of Ready.

    A reason in ``EXPECTED`` has none: the event of the completed stage implies it.

    before: the previous conditions by type; after: all present conditions.
    """
    after = list(after)
    failed = any(condition["type"] == "Stalled" for condition in after)
    events = []
    for condition in after:
        type_, old = condition["type"], before.get(condition["type"], {})
        if type_ in COMPLETED and condition["status"] == "True" != old.get("status"):
            events.append(
                Event(type="Normal", reason=COMPLETED[type_], message=condition["message"])
            )
        if type_ == "Ready" and condition["reason"] not in (old.get("reason"), *EXPECTED):
            events.append(
                Event(
                    type="Warning" if failed else "Normal",
                    reason=condition["reason"],
                    message=condition["message"],
                )
            )
    return tuple(events)
