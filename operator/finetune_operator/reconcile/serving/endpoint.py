"""Serving state and positions for people: which build answers, is starting, or has failed.

Nothing is decided here; ``rollout`` and ``stable`` have decided.
"""

from datetime import datetime

from finetune_api.v1alpha1.ledger import Attempt
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests import serving
from finetune_operator.objects import deployments, naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import diagnosis
from finetune_operator.reconcile.blocker import evidence
from finetune_operator.reconcile.conditions import POLL_SECONDS, Position, ServingState, blocked
from finetune_operator.reconcile.messages import sentence
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
    """Return the state of the serving build.

    reachable: whether the Service exists; stopped: whether it should have no replicas; released:
    whether it released its GPU.
    """
    status = deployment.get("status", {}) if deployment else {}
    available = reachable and deployments.answering(deployment) > 0
    reason, message = Reason.NOT_AVAILABLE, f"Build {build} does not answer requests."
    if available:
        reason, message = Reason.AVAILABLE, f"Build {build} answers at {serving.endpoint(job)}"
    elif stopped:
        reason, message = (
            Reason.SCALED_TO_ZERO,
            f"Build {build} is scaled to 0 by spec.serving.replicas.",
        )
    elif released:
        reason = Reason.GPU_RELEASED
        message = f"Build {build} released its GPU to the next build."
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
    """Return the position of a job whose candidate failed. served: the serving build, or None."""
    if served in (None, build):
        return Position(
            state="failed",
            reason=attempt.reason or Reason.FAILED,
            message=f"No build is served. Build {build} failed: {sentence(attempt.message or '')} "
            "Change spec.serving to try again.",
        )
    return Position(
        state="failed",
        reason=Reason.ROLLOUT_FAILED,
        message=f"Build {build} failed ({attempt.reason}): {sentence(attempt.message or '')} "
        f"Build {served} continues to serve. Change spec.serving to try again.",
    )


def starting(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    *,
    restarting: bool,
    now: datetime,
) -> Position:
    """Return the position of a job whose candidate does not answer yet.

    restarting: whether it has answered before, as the serving build.
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
            see = f"Run kubectl describe pod -l {naming.BUILD}={target.build}."
            if not pods:
                see = f"It has no pod. Run kubectl describe rs -l {naming.BUILD}={target.build}."
            if no_pod is not None:
                see = diagnosis.refused(str(no_pod["message"])).message
            return Position(
                state="stalled",
                reason=Reason.ENDPOINT_DOWN,
                message=f"The endpoint has been down for more than {seconds} s. {see}",
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
    facts = evidence(snapshot, target, serving=True)
    for pod in pods:
        if pod.get("status", {}).get("phase") in ("Pending", "Running") and (
            blocker := diagnosis.of_pod(pod, facts)
        ):
            since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
            return blocked(
                blocker,
                seconds=(now - since).total_seconds(),
                deadline=deadline,
            )
    reason, message = Reason.STARTING, "The endpoint is loading the model."
    if restarting:
        reason, message = Reason.RESTARTING, "The endpoint is down; its pods are restarting."
    return Position(state="active", reason=reason, message=message, requeue_after=POLL_SECONDS)
