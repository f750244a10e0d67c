"""The stages of a revision: which one is under way, and which one starts next.

For each stage the ledger records whether it has completed, failed terminally, or is under way; an
attempt under way is followed by its Job. Every reconcile begins with the first stage, so there is
no state but the cluster's.
"""

from dataclasses import replace
from datetime import datetime

from finetune_api.v1alpha1.ledger import Attempt
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage, desired, job_stage
from finetune_operator.reconcile import configuration, storage
from finetune_operator.reconcile.conditions import (
    Position,
    active,
    runs,
    suspended,
)
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages import attempts, restarts, under_way, volume_loss
from finetune_operator.reconcile.stages.cancellation import UNDER_WAY, stop_abandoned
from finetune_operator.reconcile.stages.preconditions import orphan_needs_volume, unmet
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Delete


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
    changed = configuration.changed(snapshot, target)
    decision = stop_abandoned(snapshot, target, ledger, stages)
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
        decision = under_way.decide(snapshot, target, ledger, attempt, now)
        attempt = decision.ledger.latest(target.revision, stage, target.build)
    if decision.position is not None:
        running = decision.position.state == "active"
        return replace(decision, position=changed) if running and changed else decision
    if attempt is not None and attempt.outcome == "Completed":
        return decision
    if attempt is not None and attempt.outcome == "Failed" and _is_terminal(target, attempt):
        return decision.then(Decision(ledger=decision.ledger, position=_failed(attempt)))
    prevented = changed or refused
    if prevented is not None and not target.resolved.spec.suspend:
        return decision.then(Decision(ledger=decision.ledger, position=prevented))
    return decision.then(_start(snapshot, target, decision.ledger, stage, attempt))


def _is_terminal(target: TargetRevision, failed: Attempt) -> bool:
    """Report whether no field has changed whose edit gives a failed stage a new attempt."""
    return failed.retry_key == attempts.retry_key(target, job_stage(failed.stage))


def _start(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    previous: Attempt | None,
) -> Decision:
    """Return the decision to start an attempt at a stage, or to wait until it can start."""
    spec, volume = target.resolved.spec, snapshot.volume(target.revision)
    claim = volume.object if volume is not None else None
    if spec.suspend:
        return Decision(ledger=ledger, position=suspended())
    if (precondition := unmet(snapshot, target, stage)) is not None:
        reason, awaited = precondition
        needed = orphan_needs_volume(snapshot, target)
        return Decision(
            ledger=ledger,
            position=active(reason, f"Waiting for {awaited} before the {stage.name} stage starts."),
            actions=tuple(storage.ensure(snapshot.job, target, claim)) if needed else (),
        )
    if (misfit := storage.misfit(snapshot.job, target, claim)) is not None:
        name = naming.revision_name(snapshot.name, target.revision)
        return Decision(
            ledger=ledger,
            position=active(
                Reason.WAITING_FOR_VOLUME,
                f"PersistentVolumeClaim {name} is not bound and does not match the spec. The "
                "operator replaces it.",
            ),
            stops=(Delete(object=misfit, propagation="Background"),),
        )
    attempt = attempts.following(snapshot, target, ledger, stage, previous)
    if restarts.capped(attempt) > spec.run_policy.max_restarts:
        attempt = restarts.too_many(attempt, spec.run_policy.max_restarts)
        return Decision(
            ledger=ledger.with_start(target.revision, target.frozen, attempt),
            position=_failed(attempt),
        )
    lost = stage.reads_sources and restarts.follows_a_lost_volume(previous)
    vouched = target.revision in ledger.revisions and not lost
    ledger = ledger.with_start(target.revision, target.frozen, attempt)
    ledger, actions = storage.to_start(snapshot, target, ledger, stage, vouched=vouched)
    return Decision(
        ledger=ledger,
        position=runs(stage),
        actions=(*actions, attempts.creation(snapshot, target, ledger, attempt)),
    )


def _failed(attempt: Attempt) -> Position:
    return Position(
        state="failed",
        reason=attempt.reason or Reason.FAILED,
        message=attempt.message or f"The {attempt.stage} stage failed.",
    )
