"""What the operator takes from the objects of Kueue: nodes of a queue, and places in it."""

from typing import Any

import pytest

from finetune_operator.queues.values import Place, Queue, places, queue_of

GPU = "nvidia.com/gpu"
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
A10G = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
FLAVORS: dict[str, dict[str, Any]] = {
    "l4": {"spec": {"nodeLabels": L4}},
    "a10g": {"spec": {"nodeLabels": A10G}},
    "cpu": {"spec": {"nodeLabels": {"pool": "cpu"}}},
    "unlabelled": {"spec": {}},
}
LOCAL = {"spec": {"clusterQueue": "gpus"}}


def group(resource: str, *names: str) -> dict[str, Any]:
    return {
        "coveredResources": [resource],
        "flavors": [{"name": each, "resources": [{"name": resource}]} for each in names],
    }


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        ([group(GPU, "l4", "a10g")], (L4, A10G)),
        ([group("cpu", "cpu"), group(GPU, "a10g")], (A10G,)),
        ([group("cpu", "cpu")], ()),
        ([group(GPU, "l4", "unlabelled")], ()),
        ([group(GPU, "l4", "absent")], ()),
        ([], ()),
        (None, ()),
    ],
)
def test_the_nodes_of_a_queue_are_those_of_its_flavors_with_gpus(groups: Any, labels: Any) -> None:
    found = queue_of(LOCAL, {"gpus": {"spec": {"resourceGroups": groups}}}, FLAVORS, GPU)
    assert found == Queue(flavors=labels)


def test_a_queue_without_a_cluster_queue_has_no_known_nodes() -> None:
    assert queue_of(LOCAL, {}, FLAVORS, GPU) == Queue()


def workload(name: str, minute: int, priority: int = 0, **more: Any) -> dict[str, Any]:
    """Return a Workload. more: conditions that are True, or ``active`` and ``queue``."""
    true = [each for each, value in more.items() if value is True]
    return {
        "metadata": {
            "name": name,
            "uid": f"w-{name}",
            "creationTimestamp": f"2030-01-01T00:{minute:02}:00Z",
            "ownerReferences": [{"uid": name}],
        },
        "spec": {
            "queueName": more.get("queue", "gpu"),
            "priority": priority,
            "active": more.get("active") != "no",
        },
        "status": {
            "conditions": [
                {"type": "Evicted", "status": "False"},
                *({"type": each, "status": "True"} for each in true),
            ]
        },
    }


def test_places_follow_priority_then_age_among_those_that_wait() -> None:
    found = places(
        [
            workload("old", 1),
            workload("new", 9),
            workload("urgent", 20, priority=10),
            workload("admitted", 0, QuotaReserved=True, Admitted=True),
            workload("finished", 0, Finished=True),
            workload("stopped", 0, active="no"),
            workload("preempted", 3, Evicted=True),
            workload("elsewhere", 0, queue="other"),
        ]
    )
    order = sorted((each.position, uid) for uid, each in found.items() if each.waiting == 4)
    assert [uid for _, uid in order] == ["urgent", "old", "preempted", "new"]
    assert found["elsewhere"] == Place(position=1, waiting=1)
    assert found.keys() == {"urgent", "old", "preempted", "new", "elsewhere"}


def test_a_workload_without_a_status_waits() -> None:
    bare = {"metadata": {"name": "a", "ownerReferences": [{"uid": "a"}]}, "spec": {}}
    assert places([bare])["a"].position == 1
