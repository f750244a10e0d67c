"""Which live reads the plan of an endpoint needs before it is executed. Pure."""

from finetune_operator.actions import Create, Delete
from finetune_operator.objects import endpoints, naming
from finetune_operator.types import LISTS, UNCONFIRMED, Confirmation, EndpointSnapshot, Plan


def confirmation(snapshot: EndpointSnapshot, plan: Plan) -> Confirmation:
    """Return the confirmation that a plan needs.

    A Job of the base is created, and a base is declared lost, only after a live read: a stale cache
    may lack the claim or the result of the Job. It may also lack a job whose names would go, or
    whose folder would be removed.
    """
    needed = UNCONFIRMED
    if any(isinstance(action, Delete) for action in plan.actions):
        needed = Confirmation("delete", frozenset(LISTS))
    elif any(
        isinstance(action, Create) and action.object["kind"] == "Job" for action in plan.actions
    ):
        needed = Confirmation("base", frozenset({"Job", "Pod", naming.VOLUME}))
    if _removes_a_folder(plan):
        needed = Confirmation("prune", needed.kinds | {endpoints.JOB_KIND})
    if _loses_names(snapshot, plan):
        return Confirmation(needed.cause or "names", needed.kinds | {endpoints.JOB_KIND})
    return needed


def _removes_a_folder(plan: Plan) -> bool:
    return any(
        isinstance(action, Create) and naming.label(action.object, naming.STAGE) == endpoints.PRUNE
        for action in plan.actions
    )


def _loses_names(snapshot: EndpointSnapshot, plan: Plan) -> bool:
    """Report whether a job that the snapshot lacks loses its names."""
    jobs = {job["metadata"]["name"] for job in snapshot.finetunejobs}
    before, after = (
        {model["job"] for model in status.get("models") or ()}
        for status in (snapshot.endpoint.get("status") or {}, plan.status)
    )
    return bool(before - after - jobs)
