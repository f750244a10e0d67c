"""The rollout of the target's build, the candidate, which takes over from the stable build.

Each build has its own Deployment. The Service selects one build and moves to another only when its
pods are ready, which they become once their model is verified. A build that fails before it was
ever ready is scaled to 0, and the stable build continues to serve (``stable``).
"""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.actions import Action, Apply
from finetune_operator.manifests import serving as manifests
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import policy
from finetune_operator.reconcile.conditions import Position, active
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.policy import Violations
from finetune_operator.reconcile.serving import endpoint, evaluation_gate, readiness, state
from finetune_operator.reconcile.serving.allowance import Allowance
from finetune_operator.reconcile.serving.candidate import Rollout, latest_attempt, withheld
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    idle: Position | None,
    allowed: Allowance,
    violations: Violations,
    now: datetime,
) -> Rollout:
    """Return the decision about the candidate of a job whose stages have completed.

    serving: the build that the Service selects, or None; idle: the position of the job if that
    build has no pods for lack of requests; allowed: how many pods it may have; violations: the
    limits that the spec exceeds. The candidate's pods stay as they are if it has been edited beyond
    a limit.
    """
    spec, build = target.resolved.spec, target.build
    if not spec.serving.enabled:
        position = Position(state="done", reason=Reason.COMPLETED, message="The model is ready.")
        return Rollout(decision=Decision(ledger=ledger), position=position)
    child = snapshot.builds.get(build)
    ready = state.answering(snapshot, build)
    latest = latest_attempt(snapshot, target, ledger, serving)
    needed = state.replicas(snapshot, target, target.revision)
    if serving != build:
        idle = None
    if idle is not None:
        needed = state.Replicas(0, needed.warnings)
    desired = allowed.limited(needed)

    def scaled(count: int) -> Apply:
        return state.deployment(snapshot, target, ledger, replicas=count, number=latest.attempt)

    gate = evaluation_gate.gate(snapshot.previous, target, ledger, serving)
    warnings = (*evaluation_gate.warnings(gate), *desired.warnings)
    refusal = policy.refusal(policy.not_admitted(violations, latest))
    cause = withheld(target, ledger, serving, latest, gate, ready=ready, desired=needed.count)
    if cause is None and latest.outcome != "Failed" and needed.count and not desired.count:
        cause = allowed.cause
    if cause is not None:
        stop: tuple[Action, ...] = ()
        replicas = None
        if child is not None and not child.terminating:
            stop, replicas = (scaled(0),) if refusal is None else state.stopped(child), 0
        decision = Decision(ledger=ledger, actions=stop, warnings=warnings)
        return Rollout(decision=decision, position=cause, replicas=replicas)
    if refusal is not None:
        return Rollout(decision=Decision(ledger=ledger, warnings=warnings), position=refusal)
    latest = policy.admitted(target, latest)
    may_select = _may_select(snapshot, target, serving, ready, desired.count)
    latest = state.judged(
        snapshot, latest, build, selectable=serving == build or may_select, now=now
    )
    ledger = ledger.with_attempt(target.revision, latest)
    count = 0 if latest.outcome == "Failed" else desired.count
    actions: tuple[Action, ...] = (scaled(count),)
    if may_select:
        actions += (Apply(object=manifests.service(snapshot.job, target, build)),)
    return Rollout(
        decision=Decision(ledger=ledger, actions=actions, warnings=warnings),
        position=idle
        or _position(snapshot, target, ledger, serving, latest, ready, desired.count, now),
        replicas=count,
        selected=may_select,
    )


def _position(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    attempt: Attempt,
    ready: int,
    desired: int,
    now: datetime,
) -> Position:
    """Return the position of a job whose candidate may be served. ready, desired: its replicas."""
    build = target.build
    if attempt.outcome == "Failed":
        serves = serving is not None and not state.failed(ledger, serving)
        return endpoint.refused(
            attempt,
            ledger.name_of(build),
            ledger.name_of(str(serving)) if serves and serving != build else None,
        )
    if desired == 0:
        return Position(
            state="done",
            reason=Reason.SCALED_TO_ZERO,
            message="The model has no serving pods because spec.serving.replicas is 0.",
        )
    if ready and snapshot.service is not None and serving == build:
        text = f"Serving at {manifests.endpoint(snapshot.job)}"
        if ready < desired:
            text += f" with {ready} of {desired} replicas"
        return Position(state="done", reason=Reason.SERVING, message=text)
    if attempt.outcome == "Completed" and ready:
        return active(Reason.STARTING, f"The endpoint switches to build {ledger.name_of(build)}.")
    return endpoint.starting(
        snapshot,
        target,
        answered=serving == build and attempt.outcome == "Completed",
        now=now,
    )


def _may_select(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    serving: str | None,
    ready: int,
    desired: int,
) -> bool:
    """Report whether the Service may select the candidate, or keep selecting it.

    It moves when every replica that can have a GPU is ready: fewer would have to answer all the
    requests of the stable build.
    """
    if snapshot.service is None and serving in (None, target.build):
        return True
    pods = readiness.pods_of(snapshot, target.build)
    waiting = sum(readiness.gpu_wanted_since(pod) is not None for pod in pods)
    return ready > 0 and desired <= ready + waiting
