"""Serving state and positions for people: which build answers, is starting, or has failed.

Nothing is decided here; ``rollout`` and ``stable`` have decided.
"""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.manifests import serving
from finetune_operator.objects import deployments, naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.pods import refused_by_nodes
from finetune_operator.objects.scheduler_message import only_lacks
from finetune_operator.reconcile.conditions import Position, ServingState, active, blocked
from finetune_operator.reconcile.diagnosis import diagnosis
from finetune_operator.reconcile.diagnosis.blocker import evidence
from finetune_operator.reconcile.messages import sentence
from finetune_operator.reconcile.serving import readiness
from finetune_operator.reconcile.serving.idle import IdleState, how_to_wake
from finetune_operator.revisions.target import TargetRevision

FEWER_PODS = "A FineTuneBudget limits endpoints, so it has fewer pods than spec.serving.replicas"
ON_PURPOSE = (
    Reason.PENDING,
    Reason.SCALED_TO_ZERO,
    Reason.IDLE,
    Reason.SERVING_OVER_BUDGET,
    Reason.GPU_RELEASED,
    Reason.STARTING,
)
"""Reasons of the condition Serving after which pods that do not answer yet are starting."""


def state(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    build: str,
    *,
    replicas: int,
    released: bool,
    release_planned_at: str | None,
    idle: IdleState,
    held: Position | None = None,
    now: datetime,
) -> ServingState:
    """Return the state of the serving build.

    replicas: those that it should have; released: whether it released its GPU;
    release_planned_at: when it will; idle: the decision about its requests; held: the position of
    a job without pods, if a budget allows fewer than the spec asks for.
    """
    child = snapshot.builds.get(build)
    deployment = child.object if child is not None else None
    status = deployment.get("status", {}) if deployment else {}
    revision = naming.label(deployment, naming.REVISION) if deployment else None
    name = f"{build} of revision {revision}" if revision else build
    available = snapshot.service is not None and deployments.answering(deployment) > 0
    summary, reason = "down", Reason.NOT_AVAILABLE
    message = f"Build {name} does not answer requests."
    if available:
        summary = str(revision) if build == target.build else f"{revision} (old)"
        reason = Reason.AVAILABLE
        message = f"Build {name} answers at {serving.endpoint(snapshot.job)}"
        notes = [idle.note, "" if held is None else FEWER_PODS]
        message = ". ".join(filter(None, (message, *notes)))
    elif target.resolved.spec.serving.replicas == 0:
        summary, reason = "stopped", Reason.SCALED_TO_ZERO
        message = f"Build {name} has no pods because spec.serving.replicas is 0."
    elif idle.stops:
        summary, reason = "idle", Reason.IDLE
        message = (
            f"Build {name} has no pods because no requests came for {idle.after_seconds} s. "
            f"{how_to_wake(snapshot.job, idle)}"
        )
    elif held is not None and replicas == 0:
        summary, reason, message = "stopped", Reason(held.reason), held.message
    elif released:
        summary, reason = "released", Reason.GPU_RELEASED
        message = f"Build {name} released its GPU to build {target.build}."
    elif replicas == 0:
        summary = "stopped"
    elif is_starting(snapshot, build, now):
        summary, reason = "starting", Reason.STARTING
        message = f"The pods of build {name} are new and are loading the model."
        if readiness.without_node(readiness.pods_of(snapshot, build)):
            summary, message = "waiting", f"The pods of build {name} wait for a node."
    return ServingState(
        available=available,
        reason=reason,
        message=message,
        revision=revision,
        build=build,
        replicas=int(status.get("replicas", 0)),
        available_replicas=int(status.get("availableReplicas", 0)),
        selector=serving.selector_text(snapshot.job, build),
        summary=summary,
        release_planned_at=release_planned_at,
        idle_after_seconds=idle.after_seconds,
        last_request_at=idle.last_request_at,
        idle_since=idle.since,
    )


def is_starting(snapshot: IndexedSnapshot, build: str, now: datetime) -> bool:
    """Report whether a build does not answer yet because its pods were started on purpose.

    They replace pods of an earlier template, or the build had no pods. If they are still not ready
    after the progress deadline of the Deployment, the endpoint is down.
    """
    child = snapshot.builds.get(build)
    if child is None or child.terminating:
        return False
    before = snapshot.previous.conditions.get("Serving", {})
    if not deployments.is_replacing_pods(child.object) and before.get("reason") not in ON_PURPOSE:
        return False
    pods = readiness.pods_of(snapshot, build)
    seconds = int(child.object["spec"]["progressDeadlineSeconds"])
    return readiness.down_seconds(snapshot, child.object, pods, now) <= seconds


def refused(attempt: Attempt, build: str, served: str | None) -> Position:
    """Return the position of a job whose candidate failed.

    build: its name; served: the name of another build, which serves, or None.
    """
    if served is None:
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
    answered: bool,
    now: datetime,
) -> Position:
    """Return the position of a job whose candidate does not answer yet.

    answered: whether it has answered before, as the serving build. If its pods were then not
    started on purpose, the endpoint is down.
    """
    child = snapshot.builds.get(target.build)
    deployment = child.object if child is not None else None
    restarting = answered and not is_starting(snapshot, target.build, now)
    pods = readiness.pods_of(snapshot, target.build)
    no_pod = (
        deployments.replica_failure(deployment) if deployment is not None and not pods else None
    )
    if restarting and deployment is not None:
        seconds = int(deployment["spec"]["progressDeadlineSeconds"])
        if readiness.down_seconds(snapshot, deployment, pods, now) > seconds:
            see = f"To see why, run: kubectl describe pod -l {naming.BUILD}={target.build}."
            if not pods:
                see = (
                    "No pod exists. To see why, run: kubectl describe rs -l "
                    f"{naming.BUILD}={target.build}."
                )
            if no_pod is not None:
                see = diagnosis.refused(str(no_pod["message"])).message
            return Position(
                state="stalled",
                reason=Reason.ENDPOINT_DOWN,
                message=f"The endpoint has been down for more than {seconds} s. {see}",
                requeue_after=delays.POLL,
            )
    deadline = target.resolved.spec.run_policy.pending_deadline_seconds
    if no_pod is not None:
        since = datetime.fromisoformat(str(no_pod["lastTransitionTime"]))
        return blocked(
            diagnosis.refused(str(no_pod["message"])),
            seconds=(now - since).total_seconds(),
            deadline=deadline,
        )
    facts, ending = (
        evidence(snapshot, target, gpu=True, serving=True),
        readiness.ending(snapshot, now),
    )
    for pod in pods:
        refusal = refused_by_nodes(pod) or ""
        if ending is not None and only_lacks(refusal, target.config.gpu.resource_name):
            # Each roll on a single GPU passes through this state.
            name = pod["metadata"]["name"]
            return active(
                Reason.STARTING,
                f"Pod {name} starts when pod {ending} has ended, which still holds its GPU.",
            )
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
    if answered:
        message = "The serving pods are new and are loading the model."
    if restarting:
        reason, message = Reason.RESTARTING, "The endpoint is down; its pods are restarting."
    return Position(state="active", reason=reason, message=message, requeue_after=delays.POLL)
