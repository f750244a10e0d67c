"""Preconditions of a stage: pods, Jobs and volumes that must be gone before it starts.

A pod may outlive its Job (a deletion without propagation orphans it), and a Job may outlive its
owner, whose name a new owner may have by now. Both are counted by label, whoever owns them: two
trainers must never write to one volume or hold two GPUs.
"""

from collections.abc import Iterator

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.pods import has_a_node
from finetune_operator.objects.stages import JobStage, is_job_stage
from finetune_operator.revisions.target import TargetRevision


def unmet(
    snapshot: IndexedSnapshot, target: TargetRevision, stage: JobStage
) -> tuple[Reason, str] | None:
    """Return the first unmet precondition of a stage: its reason and the awaited change."""
    return next(_obstacles(snapshot, target, stage), None)


def _obstacles(
    snapshot: IndexedSnapshot, target: TargetRevision, stage: JobStage
) -> Iterator[tuple[Reason, str]]:
    for pod in snapshot.pods:
        if pod.ended or not _competes(pod, target, stage.name):
            continue
        # It cannot start: nothing creates another revision's volume again while it waits.
        if pod.revision == target.revision or not _waits_for_its_volume(snapshot, pod):
            yield Reason.WAITING_FOR_POD, f"Pod {pod.name} to terminate"
    for job in snapshot.jobs:
        if _competes(job, target, stage.name) and not job.ended:
            yield Reason.WAITING_FOR_POD, f"Job {job.name} to finish"
    claim = naming.revision_name(snapshot.name, target.revision)
    for volume in snapshot.volumes:
        if volume.name == claim and volume.terminating:
            yield Reason.WAITING_FOR_VOLUME, f"PersistentVolumeClaim {claim} to be deleted"
    for child in snapshot.all_children():
        if not child.owned and naming.left_by_an_earlier_job(snapshot.job, child.object):
            name = f"{child.object['kind']} {child.name}"
            words = f"the deletion of {name} (left by a deleted FineTuneJob of this name)"
            yield Reason.WAITING_FOR_CLEANUP, words


def orphan_needs_volume(snapshot: IndexedSnapshot, target: TargetRevision) -> bool:
    """Report whether an orphaned pod of the revision waits for a volume that is gone.

    Without it the pod never ends. It starts as soon as the volume exists, so the volume is created
    only when nothing else of its stage may run.
    """
    living = [pod for pod in snapshot.pods if not pod.ended]
    waiting = [pod for pod in living if _waits_for_its_volume(snapshot, pod)]
    orphans = [pod for pod in waiting if pod.revision == target.revision]
    stages = [pod.stage for pod in orphans]
    # An orphan of another revision cannot start meanwhile.
    others = (
        *(pod for pod in living if pod not in waiting),
        *(job for job in snapshot.jobs if not job.ended),
    )
    return bool(orphans) and not any(
        _competes(other, target, stage) for other in others for stage in stages
    )


def _waits_for_its_volume(snapshot: IndexedSnapshot, pod: Child) -> bool:
    """Report whether an orphan waits for a volume that is gone; a pod with a Job ends with it."""
    jobs = {job.object["metadata"]["uid"] for job in snapshot.jobs}
    if any(owner["uid"] in jobs for owner in pod.object["metadata"].get("ownerReferences", ())):
        return False
    claim = naming.revision_name(snapshot.name, pod.revision or "")
    return not has_a_node(pod.object) and all(volume.name != claim for volume in snapshot.volumes)


def _competes(other: Child, target: TargetRevision, stage: str | None) -> bool:
    """Report whether a Job or pod may hold the GPU or the volume that a stage needs."""
    same_volume = other.revision == target.revision
    return other.stage == stage or (same_volume and is_job_stage(other.stage))
