"""What must be gone before a stage may start.

A pod may outlive its Job (a careless delete orphans it), and a Job its owner's name, which a new
owner may have by now. So both are counted by label, whoever owns them: two trainers must never
write one volume or hold two GPUs.
"""

from collections.abc import Iterator
from typing import Any

from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pod_has_ended
from finetune_operator.objects.naming import Stage
from finetune_operator.objects.pods import has_a_node
from finetune_operator.revisions.target import Chosen
from finetune_operator.types import LISTS, Object, Observed

WRITERS = ("prepare", "train", "merge")


def in_the_way(seen: Observed, chosen: Chosen, stage: Stage) -> tuple[str, str] | None:
    """Return what keeps a stage from starting, as a reason and in words, or None."""
    return next(_obstacles(seen, chosen, stage), None)


def _obstacles(seen: Observed, chosen: Chosen, stage: Stage) -> Iterator[tuple[str, str]]:
    for pod in _unended(seen):
        its = naming.label(pod, naming.REVISION)
        # It cannot start, and nobody makes another revision's volume again while it is in the way.
        stranded = its != chosen.revision and _waits_for_its_volume(seen, pod)
        if _competes(pod, chosen, stage) and not stranded:
            yield "WaitingForPod", f"pod {pod['metadata']['name']} to end"
    for job in seen.jobs:
        if _competes(job, chosen, stage) and not is_over(job):
            yield "WaitingForPod", f"Job {job['metadata']['name']} to end"
    claim = naming.revision_name(seen.job["metadata"]["name"], chosen.revision)
    for volume in seen.volumes:
        if volume["metadata"]["name"] == claim and "deletionTimestamp" in volume["metadata"]:
            yield "WaitingForVolume", f"volume {claim} to be deleted"
    for children in LISTS.values():
        for child in getattr(seen, children):
            if naming.left_by_an_earlier_job(seen.job, child):
                what = f"{child['kind']} {child['metadata']['name']}"
                yield "WaitingForCleanup", f"{what} of an earlier job of this name to be deleted"


def want_their_volume(seen: Observed, chosen: Chosen) -> bool:
    """Tell whether an orphan of the revision waits for a volume that is gone, and never ends.

    It runs as soon as it has one, so it has to wait until nothing else of its stage may.
    """
    orphans = [
        pod
        for pod in _unended(seen)
        if naming.label(pod, naming.REVISION) == chosen.revision
        and _waits_for_its_volume(seen, pod)
    ]
    stages: list[Any] = [naming.label(pod, naming.STAGE) for pod in orphans]
    others = (
        *(pod for pod in _unended(seen) if pod not in orphans),
        *(job for job in seen.jobs if not is_over(job)),
    )
    return bool(orphans) and not any(
        _competes(other, chosen, stage) for other in others for stage in stages
    )


def _unended(seen: Observed) -> Iterator[Object]:
    for pod in seen.pods:
        if not pod_has_ended(pod):
            yield pod


def _waits_for_its_volume(seen: Observed, pod: Object) -> bool:
    """Tell whether an orphan waits for a volume that is gone; what has a Job ends with that."""
    jobs = {job["metadata"]["uid"] for job in seen.jobs}
    if any(owner["uid"] in jobs for owner in pod["metadata"].get("ownerReferences", ())):
        return False
    revision = naming.label(pod, naming.REVISION) or ""
    claim = naming.revision_name(seen.job["metadata"]["name"], revision)
    return not has_a_node(pod) and all(each["metadata"]["name"] != claim for each in seen.volumes)


def _competes(other: Object, chosen: Chosen, stage: Stage) -> bool:
    """Tell whether a Job or pod may hold the GPU or the volume that a stage needs."""
    its = naming.label(other, naming.STAGE)
    same_volume = naming.label(other, naming.REVISION) == chosen.revision
    return its == stage or (same_volume and its in WRITERS)
