"""When the queues of Kueue are listed, and what remains known after an error."""

import asyncio
import logging
from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube

from finetune_operator.delays import QUEUES_KNOWN
from finetune_operator.kube.errors import OperatorError, Transient
from finetune_operator.queues.values import Place, Queues
from finetune_operator.snapshot.queues import QueueSource
from finetune_operator.types import Object

KUEUE = "kueue.x-k8s.io/v1beta2"
GPU = "nvidia.com/gpu"
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
WAITING = {"metadata": {"uid": "j"}, "spec": {"suspend": True}}
RUNNING = {"metadata": {"uid": "j"}, "spec": {"suspend": False}}


def body(kind: str, name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, **({"namespace": namespace} if namespace else {})}
    owners = {"ownerReferences": [{"uid": "j"}]} if kind == "Workload" else {}
    return {"apiVersion": KUEUE, "kind": kind, "metadata": {**metadata, **owners}, **more}


def objects() -> list[dict[str, Any]]:
    flavors = [{"name": "l4", "resources": [{"name": GPU}]}]
    groups = {"resourceGroups": [{"flavors": flavors}]}
    return [
        body("LocalQueue", "gpu", "a", spec={"clusterQueue": "gpus"}),
        body("ClusterQueue", "gpus", spec=groups),
        body("ResourceFlavor", "l4", spec={"nodeLabels": L4}),
        body("Workload", "w", "a", spec={"queueName": "gpu"}),
    ]


class Counting(MemoryKube):
    """Counts the lists of each kind, and fails those of some."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(*objects)
        self.listed: list[str] = []
        self.error: OperatorError | None = None

    async def list(self, kind: str, namespace: str = "", **how: Any) -> tuple[Object, ...]:
        self.listed.append(kind)
        if self.error is not None:
            raise self.error
        return await super().list(kind, namespace, **how)


class Clock:
    """The time in seconds; the tests advance it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kube() -> Counting:
    return Counting(*objects())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(kube: Counting, clock: Clock) -> QueueSource:
    return QueueSource(kube=kube, gpu=GPU, monotonic=clock)


def read(source: QueueSource, *jobs: Object, namespace: str = "a") -> Queues | None:
    return asyncio.run(source.of(namespace, jobs))


def test_queues_are_listed_once_a_minute(source: QueueSource, kube: Counting, clock: Clock) -> None:
    for _ in range(3):
        found = read(source, RUNNING)
        assert found is not None
        assert found.local["gpu"].flavors == (L4,)
        assert read(source, namespace="b") == Queues()
    assert sorted(kube.listed) == ["ClusterQueue", "LocalQueue", "ResourceFlavor"]
    clock.now = 60
    read(source, RUNNING)
    assert len(kube.listed) == 6


def test_many_jobs_share_one_list(source: QueueSource, kube: Counting) -> None:
    async def many() -> None:
        await asyncio.gather(*(source.of("a", [RUNNING]) for _ in range(20)))

    asyncio.run(many())
    assert len(kube.listed) == 3


def test_workloads_are_listed_once_a_minute_while_a_job_waits(
    source: QueueSource, kube: Counting, clock: Clock
) -> None:
    for clock.now in (0.0, 30.0, 59.0):
        found = read(source, WAITING)
        assert found is not None
        assert found.places["j"] == Place(position=1, waiting=1)
    assert kube.listed.count("Workload") == 1
    clock.now = 60.0
    read(source, WAITING)
    assert kube.listed.count("Workload") == 2
    found = read(source, RUNNING)
    assert found is not None
    assert found.places == {}


def test_a_queue_that_is_missing_is_looked_for_again_a_few_seconds_later(
    source: QueueSource, kube: Counting, clock: Clock
) -> None:
    read(source)
    asyncio.run(kube.create(body("LocalQueue", "new", "a", spec={"clusterQueue": "gpus"})))
    assert not asyncio.run(source.refresh()), "it was just listed"
    clock.now = 5
    assert asyncio.run(source.refresh())
    assert read(source).local.keys() == {"gpu", "new"}  # type: ignore[union-attr]
    clock.now = 10
    assert not asyncio.run(source.refresh())


def test_an_error_stops_no_job_and_is_logged_once(
    source: QueueSource, kube: Counting, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kube.error = Transient("404 not found")
    with caplog.at_level(logging.WARNING, "finetune_operator.queues"):
        for clock.now in (0.0, 60.0, 120.0):
            assert read(source, WAITING) is None
    (record,) = caplog.records
    assert "404 not found" in record.getMessage()
    assert "kueue.enabled" in record.getMessage()
    kube.error, clock.now = None, 180.0
    assert read(source, WAITING).places.keys() == {"j"}  # type: ignore[union-attr]
    kube.error, clock.now = Transient("timeout"), 240.0
    found = read(source, WAITING)
    assert found is not None
    assert (set(found.local), set(found.places)) == ({"gpu"}, {"j"})


def test_queues_that_cannot_be_listed_for_minutes_are_not_known(
    source: QueueSource, kube: Counting, clock: Clock
) -> None:
    assert read(source) is not None
    kube.error = Transient("403 forbidden")
    clock.now = 60.0
    assert read(source) is not None, "an error of a moment changes nothing"
    clock.now = 60.0 + QUEUES_KNOWN
    assert read(source) is None
    kube.error = None
    clock.now += 60.0
    assert read(source) is not None
