"""The claim of an endpoint: it is created once, and only grows. Pure."""

from finetune_api.quantity import amount
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.actions import Action, Create, Delete, Patch
from finetune_operator.manifests.endpoints import objects
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.endpoints import state
from finetune_operator.reconcile.endpoints.base import deletions, unfinished
from finetune_operator.reconcile.endpoints.folders import prune_jobs
from finetune_operator.reconcile.endpoints.parts import Parts
from finetune_operator.types import Object, Plan


def ensure(parts: Parts, present: Object | None) -> list[Action]:
    """Return the actions that create the claim, or grow it to the size of the spec."""
    desired = objects.claim(parts.endpoint, parts.target)
    if present is None:
        return [Create(object=desired)]
    requests = desired["spec"]["resources"]["requests"]
    size = present["spec"]["resources"]["requests"]["storage"]
    if amount(requests["storage"]) <= amount(size):
        return []
    return [Patch(object=present, changes={"spec": {"resources": {"requests": requests}}})]


def while_deleted(parts: Parts, claim: Object, deployment: Object | None) -> Plan:
    """Return the plan while the claim is being deleted: no pod may keep it."""
    position = Position(
        state="active",
        reason=Reason.WAITING_FOR_VOLUME,
        message=f"PersistentVolumeClaim {claim['metadata']['name']} is being deleted. The endpoint "
        "stops, and prepares its base again on another volume.",
    )
    status = dict(parts.endpoint.get("status") or {})
    status["observedGeneration"] = parts.endpoint["metadata"]["generation"]
    status["conditions"] = state.listed_conditions(
        parts.endpoint,
        position,
        base=("False", position.reason, position.message),
        serving=("False", position.reason, position.message),
        now=parts.now,
    )
    stopped: list[Action] = [] if deployment is None else [Delete(object=deployment)]
    stopped += deletions([*unfinished(parts.snapshot), *prune_jobs(parts.snapshot).values()])
    return Plan(status=status, actions=tuple(stopped), requeue_after=delays.POLL)
