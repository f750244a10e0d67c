"""The ConfigMap of the target revision, which pods mount and users can replace.

The operator compares it with the digests in the ledger, and reads nothing else from it. A missing
ConfigMap is created again. While another one is in its place, no stage starts.
"""

from datetime import datetime

from finetune_api.revision_hash import text_digest
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.actions import Create, Delete
from finetune_operator.manifests.revision import configmap
from finetune_operator.objects.compact.trimming import DIGESTS
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.reconcile.conditions import Position, active
from finetune_operator.revisions.documents import JOB_FILE, OPERATOR_FILE, agree, job_file
from finetune_operator.revisions.target import TargetRevision


def creation(snapshot: IndexedSnapshot, target: TargetRevision) -> tuple[Create, ...]:
    """Return the creation of the ConfigMap if it is missing and can be rendered."""
    if snapshot.configmap(target.revision) is not None or not _renders(snapshot, target):
        return ()
    return (Create(object=configmap(snapshot.job, target)),)


def deletion(
    snapshot: IndexedSnapshot, target: TargetRevision, now: datetime
) -> tuple[Delete, ...]:
    """Return the deletion of a ConfigMap that the operator replaces."""
    child = snapshot.configmap(target.revision)
    if child is None or not _is_replaced(snapshot, child, target, now):
        return ()
    # Without finalizers, so that the next reconcile creates it again.
    return (Delete(object=child.object, propagation="Background"),)


def changed(snapshot: IndexedSnapshot, target: TargetRevision, now: datetime) -> Position | None:
    """Return the position of a job whose pods would not get the configuration of the ledger."""
    child = snapshot.configmap(target.revision)
    if child is not None and (
        agree(child.object.get(DIGESTS, {}), target.frozen) or _is_of_another_profile(child, target)
    ):
        return None
    if child is not None and (
        _is_replaced(snapshot, child, target, now) or _is_being_replaced(snapshot, child, target)
    ):
        return active(
            Reason.CONFIGURATION_CHANGED,
            f"The operator replaces ConfigMap {child.name}, whose {OPERATOR_FILE} does not match "
            "the digest in status.revisions.",
        )
    if child is not None:
        return _stalled(
            f"ConfigMap {child.name} was changed: its data does not match the digests in "
            f"status.revisions. Delete ConfigMap {child.name}; the operator creates it again "
            "within five minutes."
        )
    if _renders(snapshot, target):
        return None
    return _stalled(
        f"The ConfigMap of revision {target.revision} was deleted, and the operator cannot render "
        f"its {JOB_FILE} again: evalSteps, saveSteps or loggingSteps of spec.training.advanced "
        "changed after the revision started, or the operator was upgraded. If you changed these "
        "fields, set them to their earlier values. To train a new revision instead, set spec.rerun "
        "to a new value."
    )


def _is_replaced(
    snapshot: IndexedSnapshot, child: Child, target: TargetRevision, now: datetime
) -> bool:
    """Report whether a ConfigMap differs from the revision's in its operator.json alone.

    No pod reads operator.json, and the images in it may have been corrected. A new ConfigMap is
    left alone: whoever changes each one at once would keep the operator busy.
    """
    created = datetime.fromisoformat(str(child.object["metadata"]["creationTimestamp"]))
    return (
        not child.terminating
        and _differs_in_operator_file(child, target)
        and (
            _is_of_another_profile(child, target)
            or abs((now - created).total_seconds()) >= delays.REPLACED
        )
        and _renders(snapshot, target)
    )


def _is_being_replaced(snapshot: IndexedSnapshot, child: Child, target: TargetRevision) -> bool:
    """Report whether a ConfigMap that is being deleted is created again."""
    return (
        child.terminating
        and _differs_in_operator_file(child, target)
        and _renders(snapshot, target)
    )


def _differs_in_operator_file(child: Child, target: TargetRevision) -> bool:
    """Report whether only the operator.json of a ConfigMap is not that of the revision."""
    digests, frozen = child.object.get(DIGESTS, {}), target.frozen
    return (
        not agree(digests, frozen)
        and digests.keys() == {JOB_FILE, OPERATOR_FILE}
        and digests[JOB_FILE] == frozen.job_digest
    )


def _is_of_another_profile(child: Child, target: TargetRevision) -> bool:
    """Report whether a ConfigMap is that of the revision before the job got another profile."""
    return target.replaced is not None and agree(child.object.get(DIGESTS, {}), target.replaced)


def _renders(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    """Report whether the present spec gives the job.json that the revision was started with."""
    return text_digest(job_file(snapshot.job, target.resolved)) == target.frozen.job_digest


def _stalled(message: str) -> Position:
    return Position(
        state="stalled",
        reason=Reason.CONFIGURATION_CHANGED,
        message=message,
        requeue_after=delays.REPLACED,
    )
