"""Snapshot of a FineTuneEndpoint -> plan. Pure: no I/O, no clock, no environment.

First the base is prepared on the claim of the endpoint. Then its pod serves the names of the jobs
that have published a model to it. The pod outlasts a change of the names: it reads the signed list
from a ConfigMap.
"""

from datetime import datetime

from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec
from finetune_api.v1alpha1.endpoints.status import FineTuneEndpointStatus
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Action
from finetune_operator.reconcile.endpoints import revocation, serving, status, volume
from finetune_operator.reconcile.endpoints.base import base
from finetune_operator.reconcile.endpoints.confirmation import confirmation
from finetune_operator.reconcile.endpoints.folders import folders
from finetune_operator.reconcile.endpoints.names import names, numbered
from finetune_operator.reconcile.endpoints.parts import PODS, Parts
from finetune_operator.reconcile.endpoints.report import report
from finetune_operator.revisions.sharing.models import attached
from finetune_operator.revisions.sharing.settings import refusals, resolve
from finetune_operator.types import EndpointSnapshot, Plan

__all__ = ["confirmation", "plan", "report"]

NO_KEY = (
    "The operator has no key to sign the list of model names with, and a pod trusts no other list. "
    "Ask your cluster administrator to set the chart value provenance.signingKeySecret."
)


def plan(snapshot: EndpointSnapshot, *, now: datetime) -> Plan:
    """Return the plan of a reconcile of an endpoint."""
    endpoint, key = snapshot.endpoint, snapshot.settings.signing_key
    if "deletionTimestamp" in endpoint["metadata"]:
        return Plan(status=endpoint.get("status") or {})
    try:
        previous = FineTuneEndpointStatus.model_validate(endpoint.get("status") or {})
    except ValidationError as error:
        message = f"The status was written by another version of the operator: {error}"
        return report(snapshot, reason=Reason.UNSUPPORTED_VERSION, message=message, now=now)
    try:
        target = resolve(endpoint, snapshot.settings)
    except InvalidSpec as error:
        invalid = Reason.INVALID_SPEC
        return revocation.stopped(snapshot, previous, reason=invalid, message=str(error), now=now)
    if key is None:
        return report(snapshot, reason=Reason.SIGNING_KEY_MISSING, message=NO_KEY, now=now)
    if refused := refusals(target, snapshot.settings.policy):
        not_allowed = Reason.NOT_ALLOWED
        return revocation.stopped(
            snapshot, previous, reason=not_allowed, message=" ".join(refused), now=now
        )
    return _plan(Parts(snapshot=snapshot, target=target, previous=previous, key=key, now=now))


def _plan(parts: Parts) -> Plan:
    snapshot, endpoint = parts.snapshot, parts.endpoint
    deployment, claim = parts.deployment, parts.claim
    if claim is not None and "deletionTimestamp" in claim["metadata"]:
        return volume.while_deleted(parts, claim, deployment)
    prepared = base(snapshot, parts.target, parts.previous, claim)
    uid = None if claim is None else claim["metadata"]["uid"]
    jobs = attached(snapshot.finetunejobs, endpoint, uid)
    wanted = names(parts.target, jobs, parts.previous)
    actions: list[Action] = [
        *(() if prepared.ending else volume.ensure(parts, claim)),
        serving.policy_of_base(parts),
        *prepared.actions,
    ]
    number, pods = parts.previous.wanted, parts.previous.pods
    if prepared.prepared is not None:
        number = numbered(wanted, number, snapshot.gate, parts.now)
        pods = serving.pods(parts, prepared.prepared, number)
        actions += serving.actions(parts, prepared.prepared, wanted, number, pods)
    on_claim = folders(parts, deployment, number, lost=prepared.lost)
    actions += on_claim.actions
    without_conditions = status.status(
        parts, prepared, wanted, on_claim.listed, number, pods, deployment
    )
    position = status.position(parts, prepared, without_conditions, deployment)
    return Plan(
        status=status.with_conditions(
            parts,
            prepared,
            without_conditions,
            position,
            deployment,
            problem=on_claim.problem,
        ),
        actions=tuple(actions),
        requeue_after=position.requeue_after,
        serving_gpus=None if prepared.prepared is None else parts.allowed.wanted(PODS),
    )
