"""LocalQueues with the nodes of their flavors, and the places of the Jobs that wait."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A LocalQueue."""

    flavors: tuple[Labels, ...] = ()
    """Node labels of each ResourceFlavor that gives GPUs; empty if one of them is not known."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a Job among those that wait in its LocalQueue, from 1."""

    position: int
    waiting: int
    """Number of Jobs and other workloads that wait in the LocalQueue."""


@dataclass(frozen=True, kw_only=True)
class Queues:
    """The LocalQueues of a namespace by name, and places by the uid of the Job."""

    local: Mapping[str, Queue] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)


def queue_of(
    local: Object, cluster_queues: Mapping[str, Object], flavors: Mapping[str, Object], gpu: str
) -> Queue:
    """Return a LocalQueue. The others are by name; gpu: resource name of a GPU."""
    name = str(local.get("spec", {}).get("clusterQueue", ""))
    groups = cluster_queues.get(name, {}).get("spec", {}).get("resourceGroups") or ()
    names = [
        str(flavor["name"])
        for group in groups
        for flavor in group.get("flavors", ())
        if any(resource.get("name") == gpu for resource in flavor.get("resources", ()))
    ]
    labels = [
        flavors.get(flavor_name, {}).get("spec", {}).get("nodeLabels") or {}
        for flavor_name in names
    ]
    return Queue(flavors=tuple(labels) if all(labels) else ())


def places(workloads: Iterable[Object]) -> dict[str, Place]:
    """Return the places of the Jobs of a namespace that wait, in the order in which Kueue tries."""
    place_of: dict[str, Place] = {}
    queued: dict[str, list[Object]] = {}
    for workload in workloads:
        if _is_pending(workload):
            queued.setdefault(str(workload.get("spec", {}).get("queueName", "")), []).append(
                workload
            )
    for pending in queued.values():
        for position, workload in enumerate(sorted(pending, key=_rank), start=1):
            for owner in workload["metadata"].get("ownerReferences", ()):
                place_of[str(owner["uid"])] = Place(position=position, waiting=len(pending))
    return place_of


def _is_pending(workload: Object) -> bool:
    """Report whether a workload waits for quota; an inactive one does not."""
    true = {
        condition["type"]
        for condition in workload.get("status", {}).get("conditions", ())
        if condition["status"] == "True"
    }
    active = workload.get("spec", {}).get("active", True)
    return bool(active) and not true & {"QuotaReserved", "Finished"}


def _rank(workload: Object) -> tuple[int, str, str]:
    """Return the order of Kueue: by priority, then age; what was preempted keeps its age."""
    metadata = workload["metadata"]
    priority = int(workload.get("spec", {}).get("priority") or 0)
    return -priority, str(metadata.get("creationTimestamp", "")), str(metadata.get("uid", ""))
