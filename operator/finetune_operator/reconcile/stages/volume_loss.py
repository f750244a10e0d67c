"""Loss of a revision's volume, which a user deleted with the artifacts on it.

A deletion cannot be canceled, and no new pod can mount the volume from then on: the model is lost
when its last pod ends. So a finished job reports the loss as soon as the deletion begins, while the
serving pods can still be read. Stages that still run would run in vain. Completed work stays
completed: nothing is trained again before a user asks for it.
"""

from collections.abc import Collection

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.objects import naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.pods import claims_of
from finetune_operator.objects.stages import JobStage
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.diagnosis.blocker import names
from finetune_operator.reconcile.messages import copy_command
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.revisions import retention
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Event


def decide(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, stages: Collection[JobStage]
) -> Decision:
    """Stop, wait or start again if the target's volume is terminating, lost or replaced."""
    record, volume = ledger.revision(target.revision), snapshot.volume(target.revision)
    terminating = volume is not None and volume.terminating
    if not terminating:
        made = any(attempt.outcome == "Completed" for attempt in record.stages)
        uid = volume.object["metadata"]["uid"] if volume is not None else None
        if not made or (uid is not None and record.volume in (None, uid)):
            return Decision(ledger=ledger)
    claim = naming.revision_name(snapshot.name, target.revision)
    if _all_completed(target, ledger, stages):
        lost = terminating or volume is None
        position = _model_lost(snapshot, target, ledger, claim) if lost else None
        return Decision(ledger=ledger, position=position)
    decision = Decision(ledger=ledger)
    for job in snapshot.jobs:
        if job.owned and not job.ended:
            decision = decision.then(stop(decision.ledger, job))
        elif job.owned and job.revision == target.revision:
            # ``retention`` deletes it. Its result, if it is not recorded yet, is lost as well.
            ended = stop(decision.ledger, job, reason=Reason.VOLUME_LOST)
            decision = decision.then(Decision(ledger=ended.ledger))
    ledger = decision.ledger
    if terminating:
        position = None
        if not target.resolved.spec.suspend:
            served = any(pod.serves for pod in _readers(snapshot, target))
            position = (
                _model_lost(snapshot, target, ledger, claim)
                if served
                else _terminating(snapshot, claim)
            )
        return decision.then(Decision(ledger=ledger, position=position))
    ledger = ledger.with_lost_volume(target.revision, Reason.VOLUME_LOST)
    return decision.then(Decision(ledger=ledger, events=(starts_again(claim),)))


def starts_again(claim: str) -> Event:
    """Return the event about a job that has to begin again because its claim was deleted."""
    return Event(
        type="Warning",
        reason=Reason.VOLUME_LOST,
        message=f"PersistentVolumeClaim {claim} was deleted externally. The job starts again "
        "with the prepare stage.",
    )


def _all_completed(target: TargetRevision, ledger: Ledger, stages: Collection[JobStage]) -> bool:
    attempts = (ledger.latest(target.revision, stage, target.build) for stage in stages)
    return all(attempt is not None and attempt.outcome == "Completed" for attempt in attempts)


def _readers(snapshot: IndexedSnapshot, target: TargetRevision) -> list[Child]:
    """Return the pods of the revision, of any build, that run and keep its volume."""
    return [
        pod
        for pod in snapshot.pods
        if pod.revision == target.revision
        and not pod.terminating
        and pod.object.get("status", {}).get("phase") == "Running"
    ]


def _model_lost(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, claim: str
) -> Position:
    """Return the position of a finished job whose model is lost, or will be with its last pod."""
    readers = _readers(snapshot, target)
    if snapshot.volume(target.revision) is None:
        loss = f"PersistentVolumeClaim {claim}, which held the model, was deleted."
    elif any(pod.serves for pod in readers):
        merged = ledger.is_merged(target.revision)
        command = copy_command(snapshot.job, target.revision, merged=merged)
        loss = (
            "The volume of the model is terminating. Running pods still mount "
            f"PersistentVolumeClaim {claim}; with the last of them, the model is lost. To save the "
            f"model, run: {command}. The operator neither replaces these pods nor applies other "
            "changes of the spec to them, because no new pod can mount the claim. To stop them, "
            "set spec.serving.replicas to 0."
        )
    elif readers:
        loss = (
            f"The volume of the model is terminating. Pod {readers[0].name} still mounts "
            f"PersistentVolumeClaim {claim}; with the end of this pod, the volume is lost."
        )
    else:
        loss = (
            "The volume of the model is terminating. No running pod mounts "
            f"PersistentVolumeClaim {claim}, and no new pod can mount it."
        )
    intact = retention.newest_model(snapshot, ledger, but=target.revision)
    revert = (
        ""
        if intact is None
        else f"To serve revision {intact}, whose volume is intact, revert the spec to the state "
        "from which this revision was trained. "
    )
    return Position(
        state="failed",
        reason=Reason.VOLUME_LOST,
        message=f"{loss} {revert}To train the model again on a new volume, set spec.rerun to a "
        "new value.",
    )


def _terminating(snapshot: IndexedSnapshot, claim: str) -> Position:
    message = f"Waiting for PersistentVolumeClaim {claim} to be deleted."
    if orphans := _orphans(snapshot, claim):
        message += (
            f" Pods that have ended but have no Job any more prevent this: {names(orphans)}. To "
            f"delete them, run: kubectl delete pod {' '.join(orphans)} -n "
            f"{snapshot.job['metadata']['namespace']}."
        )
    return Position(
        state="active",
        reason=Reason.WAITING_FOR_VOLUME,
        message=message,
        requeue_after=delays.POLL,
    )


def _orphans(snapshot: IndexedSnapshot, claim: str) -> list[str]:
    """Return the pods that have ended and keep a claim, but that no Job takes along."""
    jobs = {job.uid for job in snapshot.jobs}
    return [
        pod.name
        for pod in snapshot.pods
        if pod.ended
        and not pod.terminating
        and claim in claims_of(pod.object)
        and not any(
            owner["uid"] in jobs for owner in pod.object["metadata"].get("ownerReferences") or ()
        )
    ]
