"""What an endpoint is doing, in one word, and its conditions. Pure.

``Ready`` is True while the endpoint serves every name that it can: a model that failed its
verification, or has no place, concerns its job alone.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from finetune_api.contracts.endpoint import EndpointStatus
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.endpoints.status import EndpointModelStatus
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.objects import conditions, deployments
from finetune_operator.objects.conditions import Status
from finetune_operator.objects.jobs import pod_has_ended, pods_of
from finetune_operator.reconcile.conditions import Position, active, listed, of_state
from finetune_operator.reconcile.diagnosis import diagnosis
from finetune_operator.reconcile.diagnosis.blocker import Blocker, Evidence
from finetune_operator.reconcile.endpoints.base import Base, job_of
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.sharing.endpoints import REFUSED
from finetune_operator.types import EndpointSnapshot, Object

UNDECIDED = frozenset({"Waiting", "Loading", "Proving", "Full", "Unknown"})
PLACED_BY = "spec.placement or the chart value gpu.products"
MOST_LISTED = 5


def serving_pods(snapshot: EndpointSnapshot, deployment: Object | None) -> list[Object]:
    """Return the living pods of the endpoint's Deployment."""
    if deployment is None:
        return []
    return [
        pod
        for pod in snapshot.pods
        if deployments.controls(deployment, pod)
        and "deletionTimestamp" not in pod["metadata"]
        and not pod_has_ended(pod)
    ]


def of_base(snapshot: EndpointSnapshot, base: Base) -> Position | None:
    """Return the position of an endpoint whose base is not prepared, None if it is."""
    if base.state == "prepared":
        return None
    if base.state == "failed":
        return Position(
            state="failed",
            reason=base.attempt.reason or Reason.FAILED,
            message=base.attempt.message or "The base could not be prepared.",
        )
    job = job_of(snapshot, base.attempt.attempt)
    pods = [] if job is None else pods_of(job, snapshot.pods)
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Pending":
            blocker = diagnosis.of_pod(pod, _evidence(snapshot))
            if blocker is not None:
                return _blocked(blocker)
    message = "The prepare pod of the endpoint downloads the base and prepares it for vLLM."
    if base.lost:
        message = (
            "The volume with the base was deleted or replaced. The base is prepared again; jobs "
            f"must publish their adapters again. {message}"
        )
    return active(Reason.PREPARING_BASE, message)


def of_pods(
    snapshot: EndpointSnapshot, deployment: Object | None, now: datetime
) -> Position | None:
    """Return the position of an endpoint whose pod does not serve, None if one is ready."""
    gate = snapshot.gate
    if gate is not None and gate.self_test_failed:
        return Position(
            state="stalled",
            reason=Reason.VERIFICATION_FAILED,
            message="No model name answers, because vLLM does not serve the base correctly: "
            f"{printable(gate.self_test)}. Delete the pod to start vLLM once more.",
            requeue_after=delays.POLL,
        )
    if deployments.answering(deployment) > 0:
        return None
    if deployment is None:
        return active(Reason.STARTING, "vLLM is started with the base.")
    pods = serving_pods(snapshot, deployment)
    if failure := readiness.failure(deployment, pods, now):
        return Position(
            state="stalled",
            reason=failure.reason,
            message=failure.message,
            requeue_after=delays.SLOW_POLL,
        )
    if refused := deployments.replica_failure(deployment):
        return _blocked(diagnosis.refused(str(refused.get("message", ""))))
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Pending":
            blocker = diagnosis.of_pod(pod, _evidence(snapshot))
            if blocker is not None:
                return _blocked(blocker)
    before = conditions.is_true(snapshot.endpoint, "Serving")
    was = before or conditions.get(snapshot.endpoint, "Ready").get("reason") == Reason.RESTARTING
    reason = Reason.RESTARTING if was else Reason.STARTING
    return active(
        reason,
        "vLLM loads the base. Each model is verified before its name answers.",
        requeue_after=delays.POLL,
    )


def of_models(
    models: Sequence[EndpointModelStatus], gate: EndpointStatus | None, *, continues: bool = False
) -> Position:
    """Return the position of an endpoint whose pod is ready.

    continues: whether the models are those of the status, until the first report of the gate.
    """
    if gate is None and not continues:
        return active(
            Reason.STARTING,
            "The pod is ready, but has not reported the state of its models yet. If this lasts, "
            "check that NetworkPolicies let the operator reach port 9401 of the pod.",
        )
    wanted = [model for model in models if model.state not in REFUSED]
    serving = [model for model in wanted if model.state == "Serving"]
    undecided = [model for model in wanted if model.state in UNDECIDED]
    others = [model for model in models if model.state not in UNDECIDED | {"Serving"}]
    message = f"{len(serving)} of {len(wanted)} model names answer."
    if gate is not None and gate.refused:
        return Position(
            state="stalled",
            reason=Reason.WANTED_SET_REFUSED,
            message=f"The pod rejects the list of names: {printable(gate.refused)}. If this "
            "lasts, delete the pod.",
            requeue_after=delays.POLL,
        )
    if undecided:
        return active(
            Reason.VERIFYING,
            f"{message} Not verified yet: {_listed(undecided)}.",
            requeue_after=delays.POLL,
        )
    if not models:
        message = (
            "No job has published a model to the endpoint. Set serving.mode: shared and "
            "serving.endpointRef in a FineTuneJob."
        )
    if others:
        message += f" Not served: {_listed(others)}; see status.models."
    return Position(
        state="done",
        reason=Reason.SERVING,
        message=message,
        requeue_after=delays.POLL if gate is None else delays.SLOW_POLL,
    )


def listed_conditions(
    endpoint: Object,
    position: Position,
    *,
    base: tuple[Status, str, str],
    serving: tuple[Status, str, str],
    now: datetime,
) -> list[dict[str, Any]]:
    """Return the conditions of an endpoint. base, serving: status, reason and message."""
    previous = {
        condition["type"]: condition
        for condition in (endpoint.get("status") or {}).get("conditions") or ()
    }
    ready: Status = "True" if position.state == "done" else "False"
    desired: dict[str, tuple[Status, str, str]] = {
        "Ready": (ready, position.reason, position.message)
    }
    desired |= {**of_state(position), "BaseReady": base, "Serving": serving}
    generation = endpoint["metadata"]["generation"]
    return listed(desired, position, previous=previous, generation=generation, now=now)


def with_problem(written: Iterable[Object], problem: str) -> list[Object]:
    """Return conditions of which Ready, while it is True, also reports what stops no model."""
    return [
        {**condition, "message": _with_problem(condition["message"], problem)}
        if problem and (condition["type"], condition["status"]) == ("Ready", "True")
        else condition
        for condition in written
    ]


def _with_problem(message: str, problem: str) -> str:
    return printable(f"{message} {problem}")[: conditions.MAX_MESSAGE]


def _blocked(blocker: Blocker) -> Position:
    return Position(
        state="stalled" if blocker.lasts else "active",
        reason=blocker.reason,
        message=blocker.message,
        requeue_after=delays.POLL,
    )


def _evidence(snapshot: EndpointSnapshot) -> Evidence:
    return Evidence(volumes=snapshot.volumes, placed_by=PLACED_BY)


def _listed(models: Iterable[EndpointModelStatus]) -> str:
    texts = [f"{model.name} of {model.job} ({model.state})" for model in models]
    more = len(texts) - MOST_LISTED
    return ", ".join(texts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
