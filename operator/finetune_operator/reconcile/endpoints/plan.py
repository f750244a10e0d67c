"""Snapshot of a FineTuneEndpoint -> plan. Pure: no I/O, no clock, no environment.

First the base is prepared on the claim of the endpoint. Then its pod serves the names of the jobs
that have published a model to it. The pod outlasts a change of the names: it reads the signed list
from a ConfigMap.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec
from finetune_api.policy.check import violations
from finetune_api.quantity import amount
from finetune_api.v1alpha1.endpoints.status import FineTuneEndpointStatus, ServingPods, WantedNames
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.actions import Action, Apply, Create, Delete, Patch
from finetune_operator.manifests.endpoints import network, objects, serving
from finetune_operator.objects import conditions, deployments, endpoints, naming
from finetune_operator.objects.digest import sha256
from finetune_operator.reconcile.conditions import Position, Status
from finetune_operator.reconcile.endpoints import state
from finetune_operator.reconcile.endpoints.base import Base, base
from finetune_operator.reconcile.endpoints.models import answering, models
from finetune_operator.reconcile.endpoints.names import Names, names, numbered, signed
from finetune_operator.revisions.endpoints import TargetEndpoint, resolve
from finetune_operator.revisions.shared_models import attached
from finetune_operator.signing import SigningKey
from finetune_operator.types import LISTS, UNCONFIRMED, Confirmation, EndpointSnapshot, Object, Plan

NO_KEY = (
    "The operator has no key to sign the list of model names with, and a pod trusts no other list. "
    "Ask your cluster administrator to set the chart value provenance.signingKeySecret."
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the parts of the plan have in common."""

    snapshot: EndpointSnapshot
    target: TargetEndpoint
    previous: FineTuneEndpointStatus
    now: datetime

    @property
    def endpoint(self) -> Object:
        """The FineTuneEndpoint."""
        return self.snapshot.endpoint


def plan(snapshot: EndpointSnapshot, *, now: datetime) -> Plan:
    """Return the plan of a reconcile of an endpoint."""
    endpoint, key = snapshot.endpoint, snapshot.settings.signing_key
    if "deletionTimestamp" in endpoint["metadata"]:
        return Plan(status=endpoint.get("status") or {})
    try:
        previous = FineTuneEndpointStatus.model_validate(endpoint.get("status") or {})
        target = resolve(endpoint, snapshot.settings)
    except ValidationError as error:
        message = f"The status was written by another version of the operator: {error}"
        return report(snapshot, reason=Reason.UNSUPPORTED_VERSION, message=message, now=now)
    except InvalidSpec as error:
        return report(snapshot, reason=Reason.INVALID_SPEC, message=str(error), now=now)
    if key is None:
        return report(snapshot, reason=Reason.SIGNING_KEY_MISSING, message=NO_KEY, now=now)
    if refused := violations(target.resolved.spec, snapshot.settings.policy):
        message = " ".join(each.message for each in refused)
        return report(snapshot, reason=Reason.NOT_ALLOWED, message=message, now=now)
    return _plan(Parts(snapshot=snapshot, target=target, previous=previous, now=now), key)


def confirmation(snapshot: EndpointSnapshot, plan: Plan) -> Confirmation:
    """Return the confirmation that a plan needs.

    A Job of the base is created, and a base is declared lost, only after a live read: a stale cache
    may lack the claim or the result of the Job.
    """
    if any(isinstance(action, Delete) for action in plan.actions):
        return Confirmation("delete", frozenset(LISTS))
    if any(isinstance(each, Create) and each.object["kind"] == "Job" for each in plan.actions):
        return Confirmation("base", frozenset({"Job", "Pod", naming.VOLUME}))
    return UNCONFIRMED


def report(
    snapshot: EndpointSnapshot,
    *,
    reason: Reason,
    message: str,
    now: datetime,
    planned: Object | None = None,
    rejected: Object | None = None,
) -> Plan:
    """Return a plan whose conditions report an error. Pods that serve continue to serve."""
    endpoint = snapshot.endpoint
    before = dict((endpoint.get("status") or {}) if planned is None else planned)
    position = Position(state="stalled", reason=reason, message=message)
    kept = {
        type_: _kept(endpoint, type_, "The endpoint was not reconciled.")
        for type_ in ("BaseReady", "Serving")
    }
    before["conditions"] = state.listed_conditions(
        endpoint, position, base=kept["BaseReady"], serving=kept["Serving"], now=now
    )
    before["observedGeneration"] = endpoint["metadata"]["generation"]
    return Plan(status=before, requeue_after=delays.REJECTED)


def _plan(parts: Parts, key: SigningKey) -> Plan:
    snapshot, target = parts.snapshot, parts.target
    deployment = _own(parts, "Deployment", endpoints.deployment_name)
    claim = _own(parts, naming.VOLUME, endpoints.object_name)
    if claim is not None and "deletionTimestamp" in claim["metadata"]:
        return _without_claim(parts, deployment)
    prepared = base(snapshot, target, parts.previous, claim)
    wanted = names(target, attached(snapshot.finetunejobs, parts.endpoint), parts.previous)
    actions: list[Action] = [
        *_claim(parts, claim),
        Apply(object=network.preparing(parts.endpoint, target)),
        *prepared.actions,
    ]
    number, pods = parts.previous.wanted, parts.previous.pods
    if prepared.prepared is not None:
        number = numbered(wanted, number, snapshot.gate, parts.now)
        pods = _pods(parts, prepared, number, key)
        actions += _serving(parts, prepared, wanted, number, pods, key)
    status = _status(parts, prepared, wanted, number, pods, deployment)
    position = _position(parts, prepared, status, deployment)
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    written["conditions"] = state.listed_conditions(
        parts.endpoint,
        position,
        base=_base_condition(prepared, position),
        serving=_serving_condition(deployment, position),
        now=parts.now,
    )
    return Plan(status=written, actions=tuple(actions), requeue_after=position.requeue_after)


def _status(
    parts: Parts,
    prepared: Base,
    wanted: Names,
    number: WantedNames | None,
    pods: ServingPods | None,
    deployment: Object | None,
) -> FineTuneEndpointStatus:
    answers = deployments.answering(deployment) > 0 or parts.snapshot.gate is not None
    gate = parts.snapshot.gate if answers else None
    problem = (
        "The pod of the endpoint does not answer."
        if prepared.state == "prepared"
        else "The base of the endpoint is not prepared."
    )
    found = models(wanted, gate, problem)
    return FineTuneEndpointStatus(
        observed_generation=parts.endpoint["metadata"]["generation"],
        endpoint=objects.url(parts.endpoint),
        summary=f"{answering(found)}/{len(wanted.wanted) + len(wanted.refused)}",
        free_slots=wanted.free,
        base=prepared.prepared,
        base_attempt=prepared.attempt,
        volume=prepared.volume,
        wanted=number,
        pods=pods,
        boot=None if gate is None else gate.boot,
        self_test=None if gate is None else gate.self_test or None,
        models=list(found),
    )


def _position(
    parts: Parts, prepared: Base, status: FineTuneEndpointStatus, deployment: Object | None
) -> Position:
    return (
        state.of_base(parts.snapshot, prepared)
        or state.of_pods(parts.snapshot, deployment, parts.now)
        or state.of_models(status.models, parts.snapshot.gate)
    )


def _pods(parts: Parts, prepared: Base, number: WantedNames, key: SigningKey) -> ServingPods:
    """Return the pods to render. Only a change of the rest of the template changes the number."""
    assert prepared.prepared is not None
    template = serving.template(
        parts.endpoint,
        parts.target,
        prepared.prepared,
        public_key=key.public_key.decode(),
        sequence=0,
    )
    digest, before = sha256(template), parts.previous.pods
    if before is not None and before.digest == digest:
        return before
    return ServingPods(digest=digest, sequence=number.sequence)


def _serving(
    parts: Parts,
    prepared: Base,
    wanted: Names,
    number: WantedNames,
    pods: ServingPods,
    key: SigningKey,
) -> list[Action]:
    """Return the actions that create or change what serves; the pod comes last."""
    endpoint = parts.endpoint
    assert prepared.prepared is not None
    document = signed(endpoint["metadata"]["uid"], wanted, number, key)
    deployment = serving.deployment(
        endpoint,
        parts.target,
        prepared.prepared,
        public_key=key.public_key.decode(),
        sequence=pods.sequence,
    )
    return [
        Apply(object=each)
        for each in (
            network.serving(endpoint, parts.target),
            objects.configmap(endpoint, document),
            objects.service(endpoint),
            objects.budget(endpoint),
            deployment,
        )
    ]


def _claim(parts: Parts, present: Object | None) -> list[Action]:
    """Return the actions that create the claim, or grow it to the size of the spec."""
    desired = objects.claim(parts.endpoint, parts.target)
    if present is None:
        return [Create(object=desired)]
    requests = desired["spec"]["resources"]["requests"]
    size = present["spec"]["resources"]["requests"]["storage"]
    if amount(requests["storage"]) <= amount(size):
        return []
    return [Patch(object=present, changes={"spec": {"resources": {"requests": requests}}})]


def _without_claim(parts: Parts, deployment: Object | None) -> Plan:
    """Return the plan while the claim is being deleted: no pod may keep it."""
    position = Position(
        state="active",
        reason=Reason.WAITING_FOR_VOLUME,
        message=f"PersistentVolumeClaim {endpoints.object_name(parts.endpoint['metadata']['name'])}"
        " is being deleted. The endpoint stops, and prepares its base again on another volume.",
        requeue_after=delays.POLL,
    )
    before = dict(parts.endpoint.get("status") or {})
    false: tuple[Status, str, str] = ("False", position.reason, position.message)
    before["conditions"] = state.listed_conditions(
        parts.endpoint, position, base=false, serving=false, now=parts.now
    )
    before["observedGeneration"] = parts.endpoint["metadata"]["generation"]
    stopped = () if deployment is None else (Delete(object=deployment),)
    return Plan(status=before, actions=stopped, requeue_after=delays.POLL)


def _own(parts: Parts, kind: str, named: Any) -> Object | None:
    """Return the endpoint's own object of a kind. named: the function that names it."""
    name = named(parts.endpoint["metadata"]["name"])
    return next(
        (
            each
            for each in parts.snapshot.children(kind)
            if each["metadata"]["name"] == name and naming.owned_by(parts.endpoint, each)
        ),
        None,
    )


def _base_condition(prepared: Base, position: Position) -> tuple[Status, str, str]:
    if prepared.state == "prepared":
        return "True", Reason.COMPLETED, "The base is prepared."
    return "False", position.reason, position.message


def _serving_condition(deployment: Object | None, position: Position) -> tuple[Status, str, str]:
    if deployments.answering(deployment) > 0:
        return "True", Reason.AVAILABLE, "The pod of the endpoint answers requests."
    return "False", position.reason, position.message


def _kept(endpoint: Object, type_: str, message: str) -> tuple[Status, str, str]:
    before = conditions.get(endpoint, type_)
    status: Status = "True" if before.get("status") == "True" else "False"
    return status, before.get("reason", Reason.PENDING), before.get("message", message)
