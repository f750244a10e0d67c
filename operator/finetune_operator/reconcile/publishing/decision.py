"""The decision about publishing, beside the endpoint: which Job runs, starts, or is awaited.

Attempts, retries and restarts are those of the other stages. An attempt gets all targets that are
due. It starts when neither a stage nor the endpoint is on its way, so that it never keeps the
volume from them. A Job of a revision that is no target any more is only followed to its end.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage, beside
from finetune_operator.reconcile import configuration
from finetune_operator.reconcile.conditions import Position, suspended
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.publishing import volume
from finetune_operator.reconcile.publishing.due import Due, targets
from finetune_operator.reconcile.stages import attempts, starting, under_way
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision, resolve_retained


@dataclass(frozen=True, kw_only=True)
class PublishInputs:
    """What a publish Job depends on, besides its targets."""

    busy: bool
    """Whether a stage or the endpoint is on its way, which gets the volume first."""

    refused: Position | None
    """The position of a job whose spec exceeds the limits of the policy."""


def followed(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    now: datetime,
) -> Decision:
    """Return the decision about the attempts at publishing that are under way, of any build.

    Its position is that of the target's own attempt, None if that has none or has ended. An attempt
    is stopped once a target that it was given must not get the model any more. serving: the serving
    build, or None.
    """
    decision, own = Decision(ledger=ledger), None
    for revision, attempt in publications.under_way(ledger):
        build = str(attempt.build)
        is_own = (revision, build) == (target.revision, target.build)
        of = target if is_own else resolve_retained(decision.ledger, target, revision, build)
        if of is None:
            continue
        named = snapshot.named_for(revision, attempt)
        if is_own and named is not None and not named.ended:
            due = targets(snapshot, target, ledger, serving)
            if due.withholds(attempt.targets):
                decision = decision.then(stop(decision.ledger, named))
                continue
        step = _followed(snapshot, of, decision.ledger, attempt, now)
        decision = decision.then(step)
        own = step.position if is_own else own
    return Decision(
        ledger=decision.ledger,
        position=own,
        stops=decision.stops,
        actions=(*decision.actions, *volume.released(snapshot, decision.ledger)),
        events=decision.events,
        warnings=decision.warnings,
    )


def started(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    due: Due,
    surroundings: PublishInputs,
    now: datetime,
) -> Decision:
    """Return the decision to publish to the targets that are due.

    Its position says why publishing does not start, or that it failed; it is None if nothing is
    due, or while the job is busy.
    """
    decision = Decision(ledger=ledger)
    (stage,) = beside(target.resolved.spec)
    attempt = ledger.latest(target.revision, stage, target.build)
    if attempt is not None and _is_terminal(target, stage, attempt, due):
        return Decision(ledger=ledger, position=starting.failed(attempt))
    if not due.now:
        return decision
    if target.resolved.spec.suspend:
        return Decision(ledger=ledger, position=suspended())
    prevented = configuration.changed(snapshot, target, now) or surroundings.refused
    if prevented is not None:
        return Decision(ledger=ledger, position=prevented)
    if surroundings.busy or not _has_volume(snapshot, target, ledger):
        return decision
    start = starting.decide(snapshot, target, ledger, stage, attempt, due.now)
    if start.ledger.latest(target.revision, stage, target.build) == attempt:
        return start
    return replace(start, ledger=publications.without_removed(start.ledger, target, due.now))


def _followed(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
    now: datetime,
) -> Decision:
    """Return the decision about an attempt that is under way. target: of its revision and build."""
    named = snapshot.named_for(target.revision, attempt)
    if named is not None and not named.ended:
        lost = not _keeps_volume(snapshot, target, ledger)
        if lost or volume.is_out_of_reach(snapshot, named):
            return stop(ledger, named, reason=Reason.VOLUME_LOST)
        if volume.keeps_from_serving(snapshot, named):
            return stop(ledger, named)
    unknown = attempt.job is None and (named is None or not snapshot.created.get(named.uid))
    if unknown:
        # Nothing proves that its Job has the content that the operator would give it now, such as
        # the statement about a verification that has changed since. Publishing again is cheap.
        if named is not None:
            return stop(ledger, named)
        stopped = attempt.model_copy(update={"outcome": "Stopped"})
        return Decision(ledger=ledger.with_attempt(target.revision, stopped))
    return under_way.decide(snapshot, target, ledger, attempt, now)


def _is_terminal(target: TargetRevision, stage: JobStage, attempt: Attempt, due: Due) -> bool:
    """Report whether a failed attempt is not repeated: no edit, and no further target is due."""
    return (
        attempt.outcome == "Failed"
        and attempts.is_current(target, attempt)
        and {*due.now} <= {*(attempt.targets or ())}
    )


def _has_volume(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> bool:
    """Report whether a new pod can mount the volume that holds the artifacts of a revision."""
    return snapshot.can_be_mounted(target.revision) and _keeps_volume(snapshot, target, ledger)


def _keeps_volume(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> bool:
    """Report whether the volume that holds the artifacts of a revision exists."""
    present = snapshot.volume(target.revision)
    return present is not None and present.uid == ledger.revision(target.revision).volume
