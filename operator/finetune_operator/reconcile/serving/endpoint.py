"""How the endpoint stands, for people: what answers, what is on its way, and what was refused.

Nothing is decided here; ``rollout`` and ``upkeep`` have decided.
"""

from datetime import datetime

from finetune_api.v1alpha1.ledger import Attempt
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import serving
from finetune_operator.objects import deployments, naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import diagnosis
from finetune_operator.reconcile.conditions import POLL_SECONDS, Position, ServingState, blocked
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def state(
    job: Object,
    build: str,
    deployment: Object | None,
    *,
    reachable: bool,
    stopped: bool,
    released: bool,
) -> ServingState:
    """Return how the build stands that the Service selects.

    reachable: whether the Service is there; stopped: whether it is to have no replica; released:
    whether it has released its GPU.
    """
    status = deployment.get("status", {}) if deployment else {}
    available = reachable and deployments.answering(deployment) > 0
    reason, message = Reason.NOT_AVAILABLE, f"build {build} does not answer"
    if available:
        reason, message = Reason.AVAILABLE, f"build {build} answers at {serving.endpoint(job)}"
    elif stopped:
        reason, message = Reason.SCALED_TO_ZERO, f"build {build} is stopped by serving.replicas: 0"
    elif released:
        reason = Reason.GPU_RELEASED
        message = f"build {build} has given its GPU up for the next one"
    return ServingState(
        available=available,
        reason=reason,
        message=message,
        revision=naming.label(deployment, naming.REVISION) if deployment else None,
        build=build,
        replicas=int(status.get("replicas", 0)),
        available_replicas=int(status.get("availableReplicas", 0)),
        selector=serving.selector_text(job, build),
    )


def refused(attempt: Attempt, build: str, served: str | None) -> Position:
    """Return the position of a job whose chosen build was not taken into service."""
    if served in (None, build):
        return Position(
            state="stalled",
            reason=attempt.reason or Reason.FAILED,
            message=f"nothing is served: {attempt.message}; an edit of spec.serving tries again",
        )
    return Position(
        state="stalled",
        reason=Reason.ROLLOUT_FAILED,
        message=f"build {build} was not taken into service ({attempt.reason}: {attempt.message}); "
        f"build {served} goes on serving; an edit of spec.serving tries again",
    )


def starting(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    *,
    restarting: bool,
    now: datetime,
) -> Position:
    """Return the position of a job whose chosen build does not answer yet.

    restarting: whether it has answered before, at the endpoint.
    """
    child = snapshot.builds.get(target.build)
    deployment = child.object if child is not None else None
    pods = readiness.pods_of(snapshot, target.build)
    no_pod = (
        deployments.replica_failure(deployment) if deployment is not None and not pods else None
    )
    if restarting and deployment is not None:
        seconds = int(deployment["spec"]["progressDeadlineSeconds"])
        if readiness.down_seconds(snapshot, deployment, pods, now) > seconds:
            see = f"see kubectl describe pod -l {naming.BUILD}={target.build}"
            if not pods:
                see = f"it has no pod: see kubectl describe rs -l {naming.BUILD}={target.build}"
            if no_pod is not None:
                see = diagnosis.refused(str(no_pod["message"])).message
            return Position(
                state="stalled",
                reason=Reason.ENDPOINT_DOWN,
                message=f"the endpoint has been down for more than {seconds} s: {see}",
                requeue_after=POLL_SECONDS,
            )
    deadline = target.resolved.spec.run_policy.pending_deadline_seconds
    if no_pod is not None:
        since = datetime.fromisoformat(str(no_pod["lastTransitionTime"]))
        return blocked(
            diagnosis.refused(str(no_pod["message"])),
            seconds=(now - since).total_seconds(),
            deadline=deadline,
        )
    for pod in pods:
        if pod.get("status", {}).get("phase") in ("Pending", "Running") and (
            blocker := diagnosis.of_pod(pod, snapshot.events)
        ):
            since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
            return blocked(
                blocker,
                seconds=(now - since).total_seconds(),
                deadline=deadline,
            )
    reason, message = Reason.STARTING, "the endpoint is loading the model"
    if restarting:
        reason, message = Reason.RESTARTING, "the endpoint is down: its pods are starting again"
    return Position(state="active", reason=reason, message=message, requeue_after=POLL_SECONDS)
