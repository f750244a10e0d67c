"""The start of an attempt: it waits until nothing competes with it and its volume fits."""

from collections.abc import Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.actions import Delete
from finetune_operator.objects import naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage
from finetune_operator.reconcile import storage
from finetune_operator.reconcile.conditions import Position, active, runs, suspended
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.messages import sentence
from finetune_operator.reconcile.stages import attempts, restarts
from finetune_operator.reconcile.stages.preconditions import orphan_needs_volume, unmet
from finetune_operator.reconcile.stages.spending import reservations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    previous: Attempt | None,
    targets: Sequence[str] | None = None,
) -> Decision:
    """Return the decision to start an attempt at a stage, or to wait until it can start.

    targets: those of a stage that publishes.
    """
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
    if stage.gpu and (request := reservations.missing(snapshot, target, ledger)) is not None:
        return Decision(ledger=ledger, position=reservations.awaited(), reservation=request)
    attempt = attempts.following(snapshot, target, ledger, stage, previous, targets)
    if restarts.capped(attempt) > spec.run_policy.max_restarts:
        attempt = restarts.too_many(attempt, spec.run_policy.max_restarts)
        return Decision(
            ledger=ledger.with_start(target.revision, target.frozen, attempt),
            position=failed(attempt),
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


def failed(attempt: Attempt) -> Position:
    """Return the position of a job whose attempt has failed."""
    message = attempt.message or f"The {attempt.stage} stage failed."
    if attempt.reason == Reason.DATASET_INVALID:
        # No field of the spec changes with the content of a ConfigMap, a volume or a server.
        message = (
            f"{sentence(message)} If you have corrected the data and not the spec, set spec.rerun "
            "to a new value to try again."
        )
    return Position(state="failed", reason=attempt.reason or Reason.FAILED, message=message)
