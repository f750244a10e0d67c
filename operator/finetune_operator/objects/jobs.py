"""Facts about Jobs and their pods."""

from collections.abc import Iterable

from finetune_operator.objects import naming
from finetune_operator.types import Object


def is_over(job: Object) -> bool:
    """Tell whether a Job has ended, well or not."""
    return _is(job, "Complete") or _is(job, "Failed")


def pod_has_ended(pod: Object) -> bool:
    """Tell whether a pod has ended, well or not, and holds nothing any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def pods_of(job: Object, pods: Iterable[Object]) -> list[Object]:
    """Return the pods that a Job controls, oldest first.

    Its name would not do: one that an earlier Job of the name left behind is nobody's.
    """
    own = [pod for pod in pods if naming.owned_by(job, pod)]
    return sorted(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))


def _is(job: Object, condition: str) -> bool:
    return any(
        found["type"] == condition and found["status"] == "True"
        for found in job.get("status", {}).get("conditions", ())
    )
