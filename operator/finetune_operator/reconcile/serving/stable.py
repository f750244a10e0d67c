"""The stable build is kept serving whatever happens to the candidate; the rest is pruned.

A Service or Deployment that was lost is created again. The stable build has the desired replicas
unless it releases its GPU (``gpu_handover``). A build that is selected but was never ready has none
once it has failed, nor while the job is paused. A Deployment that is neither selected nor the
target's is deleted.

If a user has deleted the volume of a build, its pods are the last ones that can read the model:
they stay as they are until the user sets ``serving.replicas`` to 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Action, Apply, Delete, Scale
from finetune_operator.manifests import serving as manifests
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile import policy
from finetune_operator.reconcile.conditions import Position, ServingState
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.serving import endpoint, state
from finetune_operator.reconcile.serving.allowance import Allowance
from finetune_operator.reconcile.serving.candidate import Rollout
from finetune_operator.reconcile.serving.handover import gpu_handover
from finetune_operator.reconcile.serving.handover.gpu_handover import Handover
from finetune_operator.reconcile.serving.idle import IdleState
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision, resolve_retained


@dataclass(frozen=True, kw_only=True)
class Stable:
    """The decision about everything that serves but the candidate."""

    decision: Decision
    state: ServingState | None
    """None if nothing is meant to serve, or a FineTuneEndpoint serves the build."""

    note: str = ""
    """What a pod that waits for a GPU can expect of the hand-over, empty if it is unknown."""


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    serving: str | None,
    idle: IdleState,
    allowed: Allowance,
    violations: policy.Violations,
    candidate: Rollout,
    now: datetime,
) -> Stable:
    """Return the decision about everything that serves but the candidate.

    idle: the decision about the requests of the serving build; allowed: how many pods it may have;
    violations: the limits that the spec exceeds; they only keep it from being applied. Pruning does
    not wait for the new model: a pruned build may hold the GPU that the next training needs.
    """
    ledger, position = candidate.decision.ledger, candidate.position
    spec = target.resolved.spec
    enabled = spec.serving.enabled
    replaces = enabled and serving not in (None, target.build)
    # Only the target may have the GPU, until its build has taken over.
    ledger = ledger.with_gpu_releases_ended(
        position.reason, but=target.revision if replaces else None
    )
    if not enabled:
        return _disabled(snapshot, ledger)
    if serving is None:
        gone = (
            *_last_pods_stopped(snapshot, target, candidate),
            *_gone(snapshot, (target.build,), snapshot.budget),
        )
        pending = ServingState(
            available=False, reason=Reason.PENDING, message="No model is being served yet."
        )
        return Stable(decision=Decision(ledger=ledger, actions=gone), state=pending)
    actions = list(_last_pods_stopped(snapshot, target, candidate))
    refused = bool(policy.not_admitted(violations, ledger.serving(serving)))
    shared = state.endpoint_of(ledger, serving)
    misdirected = state.misdirected(snapshot, target, serving, shared)
    if not candidate.selected and not refused and misdirected:
        service = manifests.service(snapshot.job, target, serving, endpoint=shared)
        actions.append(Apply(object=service))
    old = _Old(Handover(ledger=ledger))
    if serving == target.build:
        idle = idle.settled(stopped=candidate.replicas == 0)
    else:
        # The pods of both builds stay while the candidate starts and is verified.
        idle = idle.settled(stopped=not _has_pods(snapshot, target, candidate))
        old = _keep(snapshot, target, ledger, serving, idle, allowed, refused, position, now)
        actions += old.actions
    budget = snapshot.budget
    if spec.serving.replicas > 1:
        if not refused:
            actions.append(Apply(object=manifests.budget(snapshot.job, target, serving)))
        budget = None
    actions += _gone(snapshot, (serving, target.build), budget)
    desired = state.replicas(snapshot, target, target.revision)
    handover = old.handover
    current = None
    if shared is None:
        current = endpoint.state(
            snapshot,
            target,
            serving,
            replicas=(
                old.replicas if serving != target.build else _replicas(snapshot, target, candidate)
            ),
            released=handover.released,
            release_planned_at=handover.planned_at,
            idle=idle.released() if handover.released else idle,
            held=allowed.cause if allowed.limited(desired) != desired else None,
            now=now,
        )
    return Stable(
        decision=Decision(
            ledger=handover.ledger,
            actions=tuple(actions),
            events=handover.events,
            warnings=(*old.warnings, *desired.warnings),
        ),
        state=current,
        note=handover.note,
    )


def _has_pods(snapshot: IndexedSnapshot, target: TargetRevision, candidate: Rollout) -> bool:
    """Report whether the candidate has pods, or gets some."""
    child = snapshot.builds.get(target.build)
    return bool(candidate.replicas or (child is not None and child.object["spec"].get("replicas")))


def _replicas(snapshot: IndexedSnapshot, target: TargetRevision, candidate: Rollout) -> int:
    """Return the replicas that the target's build will have."""
    if candidate.replicas is not None:
        return candidate.replicas
    child = snapshot.builds.get(target.build)
    if child is None or _last_pods_stopped(snapshot, target, candidate):
        return 0
    return int(child.object["spec"]["replicas"])


def _last_pods_stopped(
    snapshot: IndexedSnapshot, target: TargetRevision, candidate: Rollout
) -> tuple[Action, ...]:
    """Stop the pods of the target's build if its volume is deleted and the user asks for none."""
    child = snapshot.builds.get(target.build)
    if child is None or child.terminating or snapshot.can_be_mounted(target.revision):
        return ()
    stops = target.resolved.spec.serving.replicas == 0
    return state.stopped(child) if stops and candidate.replicas is None else ()


class _Old(NamedTuple):
    """The decision about a stable build that is not the target's."""

    handover: Handover
    actions: tuple[Action, ...] = ()
    replicas: int = 0
    """Replicas that it should have."""

    warnings: tuple[str, ...] = ()


def _keep(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str,
    idle: IdleState,
    allowed: Allowance,
    refused: bool,
    position: Position,
    now: datetime,
) -> _Old:
    """Give the stable build the replicas that it should have."""
    if state.endpoint_of(ledger, serving) is not None:
        # It has no pods of its own.
        return _Old(Handover(ledger=ledger))
    ledger, stopped = _judge(snapshot, target, ledger, serving, now)
    old = snapshot.builds.get(serving)
    if old is None:
        lost = not snapshot.can_be_mounted(ledger.revision_of(serving))
        kept = stopped or refused or lost
        without_pods = idle.stops or allowed.most == 0
        restored = (
            () if kept else _restored(snapshot, target, ledger, serving, without_pods=without_pods)
        )
        return _Old(Handover(ledger=ledger), restored, 0 if without_pods else len(restored))
    if old.terminating:
        return _Old(Handover(ledger=ledger), replicas=1)
    desired = state.replicas(snapshot, target, old.revision)
    if stopped or idle.stops:
        desired = state.Replicas(0)
    handover = Handover(ledger=ledger)
    if desired.count > 0 and not snapshot.can_be_mounted(ledger.revision_of(serving)):
        # No budget takes the last pods that can read the model.
        desired = state.last_pods(snapshot, ledger, old)
    else:
        desired = allowed.limited(desired)
    if desired.count > 0:
        handover = gpu_handover.decide(
            snapshot, target, ledger, position=position, old=old, now=now
        )
    count = 0 if handover.released else desired.count
    scale = (
        (Scale(object=old.object, replicas=count),)
        if old.object["spec"].get("replicas") != count
        else ()
    )
    return _Old(handover, scale, count, desired.warnings)


def _judge(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, serving: str, now: datetime
) -> tuple[Ledger, bool]:
    """Return the ledger with the stable build's outcome, and whether the build has no pods.

    It may have been the first build, and replaced by an edit before its pods were ready.
    """
    revision, attempt = ledger.revision_of(serving), ledger.serving(serving)
    if revision is None or attempt is None:
        return ledger, False
    attempt = state.judged(snapshot, attempt, serving, selectable=True, now=now)
    paused = target.resolved.spec.suspend and attempt.outcome == "Starting"
    return ledger.with_attempt(revision, attempt), paused or attempt.outcome == "Failed"


def _restored(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    build: str,
    *,
    without_pods: bool,
) -> tuple[Action, ...]:
    """Create the lost Deployment of the stable build again."""
    revision = ledger.revision_of(build)
    retained = resolve_retained(ledger, target, revision, build) if revision else None
    if retained is None:
        return ()
    attempt = ledger.serving(build)
    number = attempt.attempt if attempt is not None else 1
    count = 0 if without_pods else min(1, target.resolved.spec.serving.replicas)
    return (state.deployment(snapshot, retained, ledger, replicas=count, number=number),)


def _disabled(snapshot: IndexedSnapshot, ledger: Ledger) -> Stable:
    gone = _gone(snapshot, (), snapshot.service, snapshot.budget)
    if snapshot.service is None and not snapshot.builds:
        return Stable(decision=Decision(ledger=ledger, actions=gone), state=None)
    disabled = ServingState(
        available=False, reason=Reason.DISABLED, message="The endpoint is being removed."
    )
    return Stable(decision=Decision(ledger=ledger, actions=gone), state=disabled)


def _gone(
    snapshot: IndexedSnapshot, kept: Sequence[str], *others: Child | None
) -> tuple[Action, ...]:
    """Delete the Deployments of all builds but the kept ones, and other objects."""
    builds = (deployment for build, deployment in snapshot.builds.items() if build not in kept)
    return tuple(
        Delete(object=child.object)
        for child in (*builds, *others)
        if child is not None and not child.terminating
    )
