"""The stages of a revision: which one is under way, and which one starts next.

For each stage the ledger records whether it has completed, failed terminally, or is under way; an
attempt under way is followed by its Job. Every reconcile begins with the first stage, so there is
no state but the cluster's.
"""

from dataclasses import replace
from datetime import datetime

from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage, beside, desired
from finetune_operator.reconcile import configuration
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, starting, under_way, volume_loss
from finetune_operator.reconcile.stages.cancellation import UNDER_WAY, stop_abandoned
from finetune_operator.reconcile.stages.spending import budgets as spending
from finetune_operator.reconcile.stages.spending import reservations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    refused: Position | None,
    now: datetime,
) -> Decision:
    """Return the decision about all stages; its position is None once all have completed.

    refused: the position of a job whose spec exceeds the limits of the policy.
    """
    stages = desired(target.resolved.spec)
    changed = configuration.changed(snapshot, target, now)
    decision = stop_abandoned(snapshot, target, ledger, (*stages, *beside(target.resolved.spec)))
    decision = decision.then(volume_loss.decide(snapshot, target, decision.ledger, stages))
    for stage in stages:
        if decision.position is not None:
            break
        decision = decision.then(
            _stage(snapshot, target, decision.ledger, stage, changed, refused, now)
        )
    return decision


def _stage(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    changed: Position | None,
    refused: Position | None,
    now: datetime,
) -> Decision:
    """Return the decision about a stage; its position is None if the stage has completed.

    changed: the position of a job whose configuration was changed, which starts no stage. A Job
    that runs continues: its pods reject a changed configuration. refused: that of a job that may
    start no attempt.
    """
    decision = Decision(ledger=ledger)
    attempt = ledger.latest(target.revision, stage, target.build)
    if attempt is not None and attempt.outcome in UNDER_WAY:
        halted = spending.stopped(snapshot, target, ledger, attempt) if stage.gpu else None
        decision = halted or under_way.decide(snapshot, target, ledger, attempt, now)
        attempt = decision.ledger.latest(target.revision, stage, target.build)
    position = decision.position
    if position is not None:
        if stage.gpu and attempt is not None and attempt.outcome in UNDER_WAY:
            request = spending.unreserved(snapshot, target, decision.ledger)
            decision = replace(decision, reservation=request)
        running = position.state == "active"
        return replace(decision, position=changed) if running and changed else decision
    if attempt is not None and attempt.outcome == "Completed":
        return decision
    if attempt is not None and attempt.outcome == "Failed" and attempts.is_current(target, attempt):
        return decision.then(Decision(ledger=decision.ledger, position=starting.failed(attempt)))
    prevented = (
        changed
        or refused
        or attempts.prevented(target, stage, attempt)
        or reservations.refusal(target, ledger, stage)
    )
    if prevented is None and stage.gpu:
        prevented = spending.held(snapshot, target, decision.ledger) or reservations.used_up(
            snapshot, target, decision.ledger
        )
    if prevented is not None and not target.resolved.spec.suspend:
        return decision.then(Decision(ledger=decision.ledger, position=prevented))
    return decision.then(starting.decide(snapshot, target, decision.ledger, stage, attempt))
