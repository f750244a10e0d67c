"""What must be gone before a stage may start.

A pod may outlive its Job (a careless delete orphans it), and a Job its owner's name, which a new
owner may have by now. So both are counted by label, whoever owns them: two trainers must never
write one volume or hold two GPUs.
"""

from collections.abc import Iterator
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pod_has_ended
from finetune_operator.objects.naming import Stage
from finetune_operator.objects.pods import has_a_node
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import LISTS, Object, Snapshot

WRITERS = ("prepare", "train", "merge")


def in_the_way(
    snapshot: Snapshot, target: TargetRevision, stage: Stage
) -> tuple[Reason, str] | None:
    """Return what keeps a stage from starting, as a reason and in words, or None."""
    return next(_obstacles(snapshot, target, stage), None)


def _obstacles(
    snapshot: Snapshot, target: TargetRevision, stage: Stage
) -> Iterator[tuple[Reason, str]]:
    for pod in _unended(snapshot):
        its = naming.label(pod, naming.REVISION)
        # It cannot start, and nobody makes another revision's volume again while it is in the way.
        stranded = its != target.revision and _waits_for_its_volume(snapshot, pod)
        if _competes(pod, target, stage) and not stranded:
            yield Reason.WAITING_FOR_POD, f"pod {pod['metadata']['name']} to end"
    for job in snapshot.jobs:
        if _competes(job, target, stage) and not is_over(job):
            yield Reason.WAITING_FOR_POD, f"Job {job['metadata']['name']} to end"
    claim = naming.revision_name(snapshot.job["metadata"]["name"], target.revision)
    for volume in snapshot.volumes:
        if volume["metadata"]["name"] == claim and "deletionTimestamp" in volume["metadata"]:
            yield Reason.WAITING_FOR_VOLUME, f"volume {claim} to be deleted"
    for children in LISTS.values():
        for child in getattr(snapshot, children):
            if naming.left_by_an_earlier_job(snapshot.job, child):
                what = f"{child['kind']} {child['metadata']['name']}"
                yield (
                    Reason.WAITING_FOR_CLEANUP,
                    f"{what} of an earlier job of this name to be deleted",
                )


def want_their_volume(snapshot: Snapshot, target: TargetRevision) -> bool:
    """Tell whether an orphan of the revision waits for a volume that is gone, and never ends.

    It runs as soon as it has one, so it has to wait until nothing else of its stage may.
    """
    orphans = [
        pod
        for pod in _unended(snapshot)
        if naming.label(pod, naming.REVISION) == target.revision
        and _waits_for_its_volume(snapshot, pod)
    ]
    stages: list[Any] = [naming.label(pod, naming.STAGE) for pod in orphans]
    others = (
        *(pod for pod in _unended(snapshot) if pod not in orphans),
        *(job for job in snapshot.jobs if not is_over(job)),
    )
    return bool(orphans) and not any(
        _competes(other, target, stage) for other in others for stage in stages
    )


def _unended(snapshot: Snapshot) -> Iterator[Object]:
    for pod in snapshot.pods:
        if not pod_has_ended(pod):
            yield pod


def _waits_for_its_volume(snapshot: Snapshot, pod: Object) -> bool:
    """Tell whether an orphan waits for a volume that is gone; what has a Job ends with that."""
    jobs = {job["metadata"]["uid"] for job in snapshot.jobs}
    if any(owner["uid"] in jobs for owner in pod["metadata"].get("ownerReferences", ())):
        return False
    revision = naming.label(pod, naming.REVISION) or ""
    claim = naming.revision_name(snapshot.job["metadata"]["name"], revision)
    return not has_a_node(pod) and all(
        each["metadata"]["name"] != claim for each in snapshot.volumes
    )


def _competes(other: Object, target: TargetRevision, stage: Stage) -> bool:
    """Tell whether a Job or pod may hold the GPU or the volume that a stage needs."""
    its = naming.label(other, naming.STAGE)
    same_volume = naming.label(other, naming.REVISION) == target.revision
    return its == stage or (same_volume and its in WRITERS)
