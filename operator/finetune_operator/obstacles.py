"""What must be gone before a stage may start.

A pod may outlive its Job (a careless delete orphans it), and a Job its owner's name, which a new
owner may have by now. So both are counted by label, whoever owns them: two trainers must never
write one volume or hold two GPUs.
"""

from collections.abc import Iterator

from finetune_operator import outcome
from finetune_operator.children import names
from finetune_operator.children.names import Stage
from finetune_operator.revisions import Chosen
from finetune_operator.state import Object, Observed

WRITERS = ("stage", "train", "merge")


def in_the_way(seen: Observed, chosen: Chosen, stage: Stage) -> tuple[str, str] | None:
    """Return what keeps a stage from starting, as a reason and in words, or None."""
    return next(_obstacles(seen, chosen, stage), None)


def _obstacles(seen: Observed, chosen: Chosen, stage: Stage) -> Iterator[tuple[str, str]]:
    for pod in seen.pods:
        ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if _competes(pod, chosen, stage) and not ended:
            yield "WaitingForPod", f"pod {pod['metadata']['name']} to end"
    for job in seen.jobs:
        if _competes(job, chosen, stage) and not outcome.is_over(job):
            yield "WaitingForPod", f"Job {job['metadata']['name']} to end"
    claim = names.revision_name(seen.job["metadata"]["name"], chosen.revision)
    for volume in seen.volumes:
        if volume["metadata"]["name"] == claim and "deletionTimestamp" in volume["metadata"]:
            yield "WaitingForVolume", f"volume {claim} to be deleted"
    for kind in ("jobs", "volumes", "configmaps", "deployments", "services", "networkpolicies"):
        for child in getattr(seen, kind):
            if names.left_by_an_earlier_job(seen.job, child):
                what = f"{child['kind']} {child['metadata']['name']}"
                yield "WaitingForCleanup", f"{what} of an earlier job of this name to be deleted"


def _competes(other: Object, chosen: Chosen, stage: Stage) -> bool:
    """Tell whether a Job or pod may hold the GPU or the volume that a stage needs."""
    its = names.label(other, names.STAGE)
    same_volume = names.label(other, names.REVISION) == chosen.revision
    return its == stage or (same_volume and its in WRITERS)
