"""The plan of a job about which nothing can be decided, or of which a write is rejected."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.conditions import written
from finetune_operator.objects.stages import BESIDE
from finetune_operator.reconcile.conditions import SEE_READY, Position, conditions
from finetune_operator.reconcile.reporting import transitions
from finetune_operator.reconcile.reporting.columns import summary
from finetune_operator.types import Plan, Snapshot


def report(
    snapshot: Snapshot,
    *,
    reason: Reason,
    message: str,
    now: datetime,
    planned: Mapping[str, Any] | None = None,
    rejected: Mapping[str, Any] | None = None,
) -> Plan:
    """Return a plan that only reports why nothing can be done: the previous status, Stalled.

    planned: a status whose other fields are written, instead of those of the previous one.
    rejected: the object whose write the API server rejects. If it belongs to a stage beside the
    endpoint, only the condition of this stage reports it.
    """
    before = status_view.of_job(snapshot.job)
    stage = None if rejected is None else naming.label(rejected, naming.STAGE)
    if (own := next((beside for beside in BESIDE if beside.name == stage), None)) is not None:
        status = {**(planned or snapshot.job.get("status", {}))}
        status["conditions"] = [
            written(
                own.condition,
                "False",
                reason,
                message,
                before=before.conditions.get(own.condition, {}),
                generation=condition["observedGeneration"],
                now=now,
            )
            if condition["type"] == own.condition
            else condition
            for condition in status.get("conditions", ())
        ]
        return Plan(status=status, events=transitions.events(before, status))
    generation, previous = snapshot.job["metadata"]["generation"], before.conditions
    stalled = conditions(
        Position(
            state="failed" if reason == Reason.INVALID_SPEC else "stalled",
            reason=reason,
            message=message,
        ),
        previous=previous,
        generation=generation,
        now=now,
        stages={},
        serving=None,
        succeeded=False,
    )
    reported = [
        new
        for new in stalled
        if new["type"] in ("Ready", "Finished", "Stalled") or new["type"] not in previous
    ]
    replaced = {new["type"] for new in reported} | {"Reconciling"}
    # A condition that has the new message of Ready refers to it. One that referred to the previous
    # message gets that message.
    referred, shown = {message: SEE_READY}, previous.get("Ready", {}).get("message", message)
    if shown != message:
        referred[SEE_READY] = shown
    reported += [
        {**old, "message": referred.get(old["message"], old["message"])}
        for type_, old in previous.items()
        if type_ not in replaced
    ]
    reporting = {"conditions": reported, "summary": summary(message), "eta": None}
    if planned is None:
        planned = {**snapshot.job.get("status", {}), "observedGeneration": generation}
    # A job that cannot start keeps no place in the queue of a budget.
    kept = {name: value for name, value in planned.items() if name != "budget"}
    status = {**kept, **reporting}
    return Plan(
        status=status,
        events=transitions.events(before, status),
    )
