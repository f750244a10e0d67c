"""What the status of pods says: whether they run, and about the node that one has or waits for."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from finetune_operator.objects import naming
from finetune_operator.objects.naming import Stage
from finetune_operator.types import Object


def scheduling(pod: Object) -> Mapping[str, Any]:
    """Return a pod's condition PodScheduled, an empty one while the scheduler has not seen it."""
    found: Mapping[str, Any]
    for found in pod.get("status", {}).get("conditions", ()):
        if found["type"] == "PodScheduled":
            return found
    return {}


def has_a_node(pod: Object) -> bool:
    """Tell whether a pod was given a node."""
    return scheduling(pod).get("status") == "True"


def refused_by_nodes(pod: Object) -> str | None:
    """Return why the scheduler finds no node for a pod, None where it does or has not looked."""
    condition = scheduling(pod)
    return str(condition.get("message", "")) if condition.get("status") == "False" else None


def scheduled_since(pod: Object) -> datetime:
    """Return since when a pod has, or lacks, a node; since its creation where nobody said."""
    since = scheduling(pod).get("lastTransitionTime") or pod["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(str(since))


def runs(pods: Iterable[Object], stage: Stage, revision: str) -> bool:
    """Tell whether a pod of a revision's stage runs."""
    return any(
        naming.label(pod, naming.STAGE) == stage
        and naming.label(pod, naming.REVISION) == revision
        and pod.get("status", {}).get("phase") == "Running"
        for pod in pods
    )
