"""The job's status, written from the decisions of a reconcile, and its transitions as events."""

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import serving, vllm
from finetune_operator.reconcile.conditions import (
    ServingState,
)
from finetune_operator.reconcile.serving.evaluation_gate import Gate
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.reconcile.stages.progress import preparation_status, training_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event, Snapshot

COMPLETED = {"DataReady": Reason.DATA_READY, "Trained": Reason.TRAINED, "Merged": Reason.MERGED}
"""Stage conditions, with the reason of the event when they become True."""
MOST_WARNINGS = 32
"""As many as the CRD takes."""


def _status(
    snapshot: Snapshot,
    target: TargetRevision,
    ledger: Ledger,
    current: list[dict[str, Any]],
    served: ServingState | None,
    gate: Gate,
    warnings: list[str],
) -> dict[str, Any]:
    before = snapshot.job.get("status", {})
    known = before.get("warnings", []) if before.get("revision") == target.revision else []
    status: dict[str, Any] = {
        "observedGeneration": snapshot.job["metadata"]["generation"],
        "conditions": current,
        "revision": target.revision,
        "build": target.build,
        "warnings": list(dict.fromkeys([*known, *warnings]))[:MOST_WARNINGS],
        "preparation": preparation_status(snapshot, target.revision, ledger),
        # What it learns goes into the ledger, which is therefore read after it.
        "training": training_status(snapshot, target.revision, ledger),
        "revisions": ledger.to_status(),
    }
    trained = ledger.attempt(target.revision, "train")
    if trained is not None and trained.outcome == "Completed":
        status["evaluation"] = gate.to_status().model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
    if served is not None:
        status["serving"] = {
            "revision": served.revision,
            "build": served.build,
            "replicas": served.replicas,
            "availableReplicas": served.available_replicas,
            "selector": served.selector,
            "model": vllm.names(snapshot.job, target)[0],
        }
        status["verification"] = verification_status(snapshot, served.build)
        status["endpoint"] = serving.endpoint(snapshot.job)
    return status


def _transitions(before: list[Mapping[str, Any]], after: list[dict[str, Any]]) -> tuple[Event, ...]:
    """Return an event for each stage that has completed and each change of Ready's reason."""
    known = {condition["type"]: condition for condition in before}
    events = []
    for condition in after:
        type_, old = condition["type"], known.get(condition["type"], {})
        if type_ in COMPLETED and condition["status"] == "True" != old.get("status"):
            events.append(
                Event(type="Normal", reason=COMPLETED[type_], message=condition["message"])
            )
        if type_ == "Ready" and condition["reason"] != old.get("reason"):
            failed = any(found["type"] == "Stalled" for found in after)
            events.append(
                Event(
                    type="Warning" if failed else "Normal",
                    reason=condition["reason"],
                    message=condition["message"],
                )
            )
    return tuple(events)
