"""The plan of an endpoint that cannot be planned, or whose objects the API server rejects. Pure."""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.objects import conditions
from finetune_operator.objects.conditions import Status
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.endpoints import state
from finetune_operator.reconcile.endpoints.folders import removes_folders
from finetune_operator.types import EndpointSnapshot, Object, Plan


def report(
    snapshot: EndpointSnapshot,
    *,
    reason: Reason,
    message: str,
    now: datetime,
    planned: Object | None = None,
    rejected: Object | None = None,
) -> Plan:
    """Return a plan whose conditions report an error. Pods that serve continue to serve.

    planned: a status whose other fields are written, instead of those of the previous one.
    rejected: the object whose write the API server rejects. If it removes a folder, no model is
    concerned, so only the message of Ready reports it.
    """
    endpoint = snapshot.endpoint
    written = dict((endpoint.get("status") or {}) if planned is None else planned)
    if rejected is not None and removes_folders(endpoint, rejected):
        problem = f"No folder of a deleted FineTuneJob is removed from the volume: {message}"
        written["conditions"] = state.with_problem(written.get("conditions") or (), problem)
        return Plan(status=written)
    position = Position(state="stalled", reason=reason, message=message)
    written["conditions"] = state.listed_conditions(
        endpoint,
        position,
        base=_kept(endpoint, "BaseReady"),
        serving=_kept(endpoint, "Serving"),
        now=now,
    )
    written["observedGeneration"] = endpoint["metadata"]["generation"]
    return Plan(status=written, requeue_after=delays.REJECTED)


def _kept(endpoint: Object, type_: str) -> tuple[Status, str, str]:
    """Return status, reason and message of a condition as they are."""
    before = conditions.get(endpoint, type_)
    state: Status = "True" if before.get("status") == "True" else "False"
    return (
        state,
        before.get("reason", Reason.PENDING),
        before.get("message", "The endpoint was not reconciled."),
    )
