"""Facts about a pod: its scheduling, volumes, devices, start and end."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_operator.objects import conditions
from finetune_operator.types import Object

_IMAGE_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,512}")
"""A reference with a digest or the ID of an image, perhaps behind the scheme of the runtime."""


def scheduling(pod: Object) -> Mapping[str, Any]:
    """Return a pod's condition PodScheduled, an empty mapping before the scheduler set it."""
    return conditions.get(pod, "PodScheduled")


def has_a_node(pod: Object) -> bool:
    """Report whether a pod is assigned to a node."""
    return conditions.is_true(pod, "PodScheduled")


def refused_by_nodes(pod: Object) -> str | None:
    """Return the scheduler's message if no node fits a pod, otherwise None."""
    condition = scheduling(pod)
    return str(condition.get("message", "")) if condition.get("status") == "False" else None


def scheduled_since(pod: Object) -> datetime:
    """Return when PodScheduled last changed; the pod's creation if it was never set."""
    since = scheduling(pod).get("lastTransitionTime") or pod["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(str(since))


def claims_of(pod: Object) -> list[str]:
    """Return the names of the PersistentVolumeClaims that a pod mounts."""
    return [
        str(volume["persistentVolumeClaim"]["claimName"])
        for volume in pod.get("spec", {}).get("volumes", ())
        if "persistentVolumeClaim" in volume
    ]


def extended_resources(pod: Object) -> set[str]:
    """Return the devices that a pod needs, such as nvidia.com/gpu: resources of a domain."""
    return {
        name
        for container in pod["spec"].get("containers", ())
        for name in container.get("resources", {}).get("limits", {})
        if "/" in name
    }


def started(pod: Object) -> datetime:
    """Return when the kubelet accepted a pod; its creation if that is unknown."""
    since = pod.get("status", {}).get("startTime") or pod["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(str(since))


def ended(pod: Object) -> datetime | None:
    """Return when the last container of a terminated pod ended, None if that is unknown."""
    ends = [
        status.get("state", {}).get("terminated", {}).get("finishedAt")
        for status in pod.get("status", {}).get("containerStatuses", ())
    ]
    if not ends or None in ends:
        return None
    return max(datetime.fromisoformat(str(end)) for end in ends)


def image_id(pod: Object, container: str) -> str | None:
    """Return the image that a container runs, as the container runtime resolved it.

    None if the container has not started, or if the value has no valid form.
    """
    for status in pod.get("status", {}).get("containerStatuses", ()):
        image_id = str(status.get("imageID", ""))
        if status["name"] == container and _IMAGE_ID.fullmatch(image_id):
            return image_id
    return None
