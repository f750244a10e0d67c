"""The status of an endpoint. Pure."""

from typing import Any

from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.endpoints.status import (
    FineTuneEndpointStatus,
    JobFolder,
    ServingPods,
    WantedNames,
)
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests.endpoints.objects import url
from finetune_operator.objects import deployments
from finetune_operator.objects.conditions import Status
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.endpoints import state
from finetune_operator.reconcile.endpoints.base import Base
from finetune_operator.reconcile.endpoints.models import MAX_MESSAGE, answering, kept, models
from finetune_operator.reconcile.endpoints.names import Names
from finetune_operator.reconcile.endpoints.parts import Parts
from finetune_operator.types import Object


def status(
    parts: Parts,
    prepared: Base,
    wanted: Names,
    folders: tuple[JobFolder, ...],
    number: WantedNames | None,
    pods: ServingPods | None,
    deployment: Object | None,
) -> FineTuneEndpointStatus:
    """Return the status without its conditions."""
    gate, previous = parts.snapshot.gate, parts.previous
    boot = None if gate is None else gate.boot
    self_test = None if gate is None else printable(gate.self_test)[:MAX_MESSAGE] or None
    problem = "The base of the endpoint is not prepared."
    if prepared.state == "prepared":
        held = _without_pods(parts)
        problem = "The pod of the endpoint does not answer." if held is None else held.message
    if _continues(parts, prepared, deployment):
        states, boot, self_test = kept(wanted, previous.models), previous.boot, previous.self_test
    else:
        states = models(wanted, gate, problem)
    return FineTuneEndpointStatus(
        observed_generation=parts.endpoint["metadata"]["generation"],
        endpoint=url(parts.endpoint),
        summary=f"{answering(states)}/{len(wanted.wanted) + len(wanted.unlisted)}",
        free_slots=wanted.free,
        base=prepared.prepared,
        base_attempt=prepared.attempt,
        volume=prepared.volume,
        folders=list(folders),
        wanted=number,
        pods=pods,
        boot=boot,
        self_test=self_test,
        models=list(states),
    )


def position(
    parts: Parts,
    prepared: Base,
    status: FineTuneEndpointStatus,
    deployment: Object | None,
) -> Position:
    """Return what an endpoint is doing."""
    return (
        state.of_base(parts.snapshot, prepared)
        or _without_pods(parts)
        or state.of_pods(parts.snapshot, deployment, parts.now)
        or state.of_models(
            status.models,
            parts.snapshot.gate,
            continues=_continues(parts, prepared, deployment),
        )
    )


def _without_pods(parts: Parts) -> Position | None:
    """Return the position of an endpoint that a budget allows no pod, None if it has one."""
    return None if parts.replicas else parts.allowed.cause


def _continues(parts: Parts, prepared: Base, deployment: Object | None) -> bool:
    """Report whether the states of the status still count: only the operator was restarted."""
    return (
        parts.snapshot.awaits_report
        and parts.previous.boot is not None
        and prepared.state == "prepared"
        and deployments.answering(deployment) > 0
    )


def with_conditions(
    parts: Parts,
    prepared: Base,
    status: FineTuneEndpointStatus,
    position: Position,
    deployment: Object | None,
    *,
    problem: str,
) -> dict[str, Any]:
    """Return the complete status as JSON. problem: of its volume, which stops no model."""
    written: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    base: tuple[Status, str, str] = ("False", position.reason, position.message)
    serving = base
    if prepared.state == "prepared":
        base = "True", Reason.COMPLETED, "The base is prepared."
    if deployments.answering(deployment) > 0:
        serving = "True", Reason.AVAILABLE, "The pod of the endpoint answers requests."
    listed = state.listed_conditions(
        parts.endpoint, position, base=base, serving=serving, now=parts.now
    )
    written["conditions"] = state.with_problem(listed, problem)
    return written
