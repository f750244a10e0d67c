"""Facts about Jobs and their pods."""

from collections.abc import Iterable

from finetune_operator.objects import conditions, naming
from finetune_operator.types import Object


def is_over(job: Object) -> bool:
    """Report whether a Job has finished: Complete or Failed."""
    return conditions.is_true(job, "Complete") or conditions.is_true(job, "Failed")


def pod_has_ended(pod: Object) -> bool:
    """Report whether a pod has terminated and holds no resources any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def pods_of(job: Object, pods: Iterable[Object]) -> list[Object]:
    """Return the pods that a Job controls, oldest first.

    A label with the Job's name is not enough: an earlier Job of the same name may have left pods.
    """
    own = [pod for pod in pods if naming.controlled_by(job, pod)]
    return sorted(own, key=created)


def created(child: Object) -> str:
    """Return when an object was created, as an RFC 3339 timestamp in UTC; they sort as text."""
    return str(child["metadata"].get("creationTimestamp", ""))
