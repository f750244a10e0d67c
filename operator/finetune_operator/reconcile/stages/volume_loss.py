"""Loss of a revision's volume, which a user deleted with the artifacts on it.

A deletion cannot be cancelled, and stages that still run would run in vain. Completed work stays
completed: nothing is trained again before a user asks for it.
"""

from collections.abc import Collection

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.naming import Stage
from finetune_operator.reconcile.conditions import POLL_SECONDS, Position, latest_attempts
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event


def decide(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, stages: Collection[Stage]
) -> Decision:
    """Stop, wait or start again if the target's volume is terminating, lost or replaced."""
    record, volume = ledger.revision(target.revision), snapshot.volume(target.revision)
    terminating = volume is not None and volume.terminating
    if not terminating:
        made = any(attempt.outcome == "Completed" for attempt in record.stages)
        uid = volume.object["metadata"]["uid"] if volume is not None else None
        if not made or (uid is not None and record.volume in (None, uid)):
            return Decision(ledger=ledger)
    spec, claim = target.resolved.spec, naming.revision_name(snapshot.name, target.revision)
    held = terminating and _other_build_serves(snapshot, target) and not spec.suspend
    if not held and _all_completed(target, ledger, stages):
        lost = volume is None and spec.serving.enabled
        return Decision(ledger=ledger, position=_model_lost(claim) if lost else None)
    decision = Decision(ledger=ledger)
    for job in snapshot.jobs:
        if job.owned and not job.ended:
            decision = decision.then(stop(decision.ledger, job))
    ledger = decision.ledger
    if held:
        return decision.then(Decision(ledger=ledger, position=_held(claim)))
    if terminating:
        waiting = None if spec.suspend else _terminating(claim)
        return decision.then(Decision(ledger=ledger, position=waiting))
    event = Event(
        type="Warning",
        reason=Reason.VOLUME_LOST,
        message=f"PersistentVolumeClaim {claim} was deleted externally. The job starts again "
        "with the prepare stage.",
    )
    ledger = ledger.with_lost_volume(target.revision, Reason.VOLUME_LOST)
    return decision.then(Decision(ledger=ledger, events=(event,)))


def _all_completed(target: TargetRevision, ledger: Ledger, stages: Collection[Stage]) -> bool:
    attempts = latest_attempts(ledger, target.revision, target.build, stages).values()
    return all(attempt is not None and attempt.outcome == "Completed" for attempt in attempts)


def _other_build_serves(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    """Report whether another build of this revision serves from its volume, and so keeps it."""
    return any(
        pod.stage == "serve"
        and pod.revision == target.revision
        and pod.build != target.build
        and not pod.terminating
        and pod.object.get("status", {}).get("phase") == "Running"
        for pod in snapshot.pods
    )


def _held(claim: str) -> Position:
    return Position(
        state="failed",
        reason=Reason.VOLUME_LOST,
        message=f"PersistentVolumeClaim {claim} is terminating but still mounted by serving pods. "
        "To release it, set spec.serving.replicas to 0. To train a new revision on a new volume "
        "instead, set spec.rerun to a new value.",
    )


def _model_lost(claim: str) -> Position:
    return Position(
        state="failed",
        reason=Reason.VOLUME_LOST,
        message=f"PersistentVolumeClaim {claim}, which held the model, was deleted. "
        "To train the model again, set spec.rerun to a new value.",
    )


def _terminating(claim: str) -> Position:
    return Position(
        state="active",
        reason=Reason.WAITING_FOR_VOLUME,
        message=f"Waiting for PersistentVolumeClaim {claim} to be deleted.",
        requeue_after=POLL_SECONDS,
    )
