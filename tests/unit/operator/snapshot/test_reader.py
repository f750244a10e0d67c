"""Requests of one read, and the contents of its snapshot."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.fakes.apiserver import CONFIG
from tests.fakes.kube_client import MemoryKube, child, job
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_operator import delays
from finetune_operator.objects import naming
from finetune_operator.objects.compact.trimming import DIGESTS
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.pending import pending_objects
from finetune_operator.snapshot.reader import JobReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.types import Object, PodProgress, Snapshot, Verification

KEY = ("a", "demo")
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class Reading:
    """A reader whose clocks a test sets."""

    def __init__(self, *objects: Any, metrics: FakePodMetrics | None = None) -> None:
        self.kube, self.store = MemoryKube(*objects), ObjectStore()
        self.now = CREATED + timedelta(hours=1)
        self.reader = JobReader(
            live=LiveReader(kube=self.kube, store=self.store),
            metrics=metrics or FakePodMetrics(),
            settings=CONFIG,
            clock=lambda: self.now,
            monotonic=lambda: self.now.timestamp(),
        )

    def watched(self) -> "Reading":
        """Deliver all objects, of ConfigMaps the metadata."""
        for each in self.kube.objects.values():
            metadata_only = each["kind"] == "ConfigMap"
            keep = ("apiVersion", "kind", "metadata") if metadata_only else each
            self.store.put({key: each[key] for key in keep})
        return self

    async def read(self, **how: Any) -> Snapshot:
        snapshot = await self.reader.read(KEY, **how)
        assert snapshot is not None
        return snapshot

    async def requests(self, **how: Any) -> int:
        before = self.kube.reads
        await self.read(**how)
        return self.kube.reads - before


def pod(name: str, stage: str, phase: str = "Running", ip: str = "10.0.0.1") -> dict[str, Any]:
    each: dict[str, Any] = child("Pod", name, status={"phase": phase, "podIP": ip})
    each["metadata"]["labels"]["finetune.dev/stage"] = stage
    return each


def on_a_node(name: str) -> dict[str, Any]:
    """Return a pod that waits for its node to start it."""
    each = pod(name, "train", phase="Pending")
    each["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    return each


def ledger(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"revision": "r1", "revisions": [{"revision": "r1", "stages": list(stages)}]}


def attempt(stage: str, outcome: str) -> dict[str, Any]:
    return {"stage": stage, "attempt": 1, "outcome": outcome}


async def test_a_read_of_a_watched_job_sends_no_request() -> None:
    run = child("Job", "j")
    run["metadata"]["uid"] = "uid-of-j"
    objects = (job(), child("Pod", "p", owner="uid-of-j", status={"phase": "Running"}), run)
    assert await Reading(*objects).watched().requests() == 0


async def test_a_job_that_the_store_lacks_is_read_by_its_name() -> None:
    assert await Reading().reader.read(KEY) is None
    reading = Reading(job())
    assert await reading.requests() == 1
    assert await reading.requests() == 0


async def test_a_deleted_job_is_evicted_by_a_live_read() -> None:
    reading = Reading(job()).watched()
    reading.kube.objects.clear()
    assert await reading.reader.read(KEY) is not None
    assert await reading.reader.read(KEY, live={"FineTuneJob"}) is None
    assert reading.store.own_keys() == []


async def test_a_live_read_costs_one_get_and_eight_lists_and_evicts_what_is_gone() -> None:
    reading = Reading(job(), pod("p", "train"), child("Job", "gone")).watched()
    del reading.kube.objects["Job", "a", "gone"]
    reading.kube._store(child("Service", "s"))
    reads = reading.kube.reads
    snapshot = await reading.read(live=JOBS.kinds)
    assert reading.kube.reads == reads + 9
    found = [each["metadata"]["name"] for each in (*snapshot.pods, *snapshot.services)]
    assert (found, snapshot.jobs) == (["p", "s"], ())


async def test_jobs_are_listed_before_their_pods() -> None:
    reading, kinds = Reading(job()), list[str]()
    list_ = reading.kube.list

    async def recording(kind: str, *args: Any, **how: Any) -> tuple[Object, ...]:
        kinds.append(kind)
        return await list_(kind, *args, **how)

    reading.kube.list = recording  # type: ignore[method-assign]
    await reading.read(live={"Job", "Pod"})
    assert kinds == ["Job", "Pod"]


@pytest.mark.parametrize(
    ("kind", "name", "outcome"),
    [
        ("Job", "demo-r1-train-1", "Running"),
        ("PersistentVolumeClaim", "demo-r1", "Completed"),
    ],
)
async def test_absence_of_an_object_of_the_ledger_is_confirmed(
    kind: str, name: str, outcome: str
) -> None:
    """An object without its label looks deleted to a watch with a selector."""
    fields = ({"status": {"phase": "Bound"}}, {"status": {"ready": 1}})[kind == "Job"]
    existing = child(kind, name, **fields)
    existing["metadata"]["labels"] = {}
    reading = Reading(job(**ledger(attempt("train", outcome))), existing).watched()
    snapshot = await reading.read()
    found = (*snapshot.jobs, *snapshot.volumes)
    assert [each["metadata"]["name"] for each in found] == [name]
    del reading.kube.objects[kind, "a", name]
    assert await reading.requests() >= 1
    assert (await reading.read()).jobs == ()


async def test_an_object_that_the_watches_do_not_report_is_read_each_time() -> None:
    """Nothing would change or remove it in the store before the next list."""
    existing = child("Job", "demo-r1-train-1", status={"ready": 1})
    del existing["metadata"]["labels"][naming.MANAGER]
    reading = Reading(job(**ledger(attempt("train", "Running"))), existing).watched()
    first = await reading.read()
    assert [each["status"] for each in first.jobs] == [{"ready": 1}]
    reading.kube.objects["Job", "a", "demo-r1-train-1"]["status"] = {"ready": 0}
    assert [each["status"] for each in (await reading.read()).jobs] == [{"ready": 0}]
    del reading.kube.objects["Job", "a", "demo-r1-train-1"]
    assert (await reading.read()).jobs == ()


async def test_absence_of_a_volume_with_unknown_content_is_confirmed() -> None:
    existing = child("PersistentVolumeClaim", "demo-r1", status={"phase": "Bound"})
    existing["metadata"]["labels"] = {}
    status = ledger(attempt("prepare", "Starting"))
    status["revisions"][0]["untrustedVolume"] = "uid"
    snapshot = await Reading(job(**status), existing).watched().read()
    assert [each["metadata"]["name"] for each in snapshot.volumes] == ["demo-r1"]


async def test_the_configmap_of_the_revision_is_read_once_for_each_version() -> None:
    frozen = child("ConfigMap", "demo-r1", data={"job.json": "{}"})
    reading = Reading(job(**ledger()), frozen, child("ConfigMap", "other", data={"a": "b"}))
    reading.watched()
    assert await reading.requests() == 1
    assert await reading.requests() == 0
    found = {each["metadata"]["name"]: each for each in (await reading.read()).configmaps}
    assert [*found["demo-r1"][DIGESTS]] == ["job.json"]
    assert DIGESTS not in found["other"]
    reading.kube.touch("ConfigMap", "a", "demo-r1", data={})
    reading.watched()
    assert await reading.requests() == 1
    assert await reading.requests() == 0


async def test_a_snapshot_contains_the_last_metrics_of_the_pods() -> None:
    progress = PodProgress(pod="uid-t", global_step=7)
    verification = Verification(pod="v", build="b", outcome="Verified")
    metrics = FakePodMetrics(verification, progress)
    trainer, run = pod("t", "train"), child("Job", "run")
    run["metadata"] |= {"uid": "run"}
    run["metadata"]["labels"]["finetune.dev/stage"] = "train"
    trainer["metadata"] |= {"uid": "uid-t"}
    trainer["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "run", "controller": True}]
    snapshot = await Reading(job(), trainer, run, metrics=metrics).watched().read()
    assert (snapshot.progress, snapshot.verification) == (progress, verification)
    assert [target.uid for target in metrics.targets[KEY]] == ["uid-t"]


async def test_events_are_read_after_ten_seconds_and_then_every_fifteen() -> None:
    reading = Reading(job(), on_a_node("p")).watched()
    reading.now = CREATED + timedelta(seconds=9)
    assert await reading.requests() == 0
    reading.now += timedelta(seconds=1)
    assert await reading.requests() == 1
    reading.now += timedelta(seconds=delays.EVENTS - 1)
    assert await reading.requests() == 0
    reading.now += timedelta(seconds=1)
    assert await reading.requests() == 1


async def test_a_clock_that_is_behind_makes_objects_old() -> None:
    reading = Reading(job(), on_a_node("p")).watched()
    reading.now = CREATED - timedelta(days=1)
    assert await reading.requests() == 1


REJECTED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
CHOSEN = {"volume.kubernetes.io/selected-node": "a"}


@pytest.mark.parametrize(
    ("conditions", "annotations", "expected"),
    [
        ([], {}, set()),
        ([REJECTED], {}, {"unbound"}),
        ([], CHOSEN, {"unbound"}),
        ([{"type": "PodScheduled", "status": "True"}], {}, {"pending"}),
    ],
    ids=["not scheduled yet", "rejected by the scheduler", "volume is provisioned", "has a node"],
)
def test_events_are_read_where_they_may_contain_the_cause(
    conditions: list[Any], annotations: dict[str, str], expected: set[str]
) -> None:
    waiting = pod("pending", "train", phase="Pending")
    waiting["status"]["conditions"] = conditions
    unbound = child("PersistentVolumeClaim", "unbound", status={"phase": "Pending"})
    bound = child("PersistentVolumeClaim", "bound", status={"phase": "Bound"})
    for each in (unbound, bound):
        each["metadata"]["annotations"] = annotations
    ended = child("Pod", "ended", status={"phase": "Failed", "conditions": [REJECTED]})
    pods = [waiting, ended, pod("runs", "train")]
    pending = pending_objects(volumes=[unbound, bound], jobs=[], pods=pods)
    assert {each["metadata"]["name"] for each in pending} == expected


def test_events_are_read_for_jobs_without_a_pod() -> None:
    phases = {"runs": "Running", "succeeded": "Succeeded", "failed": "Failed"}
    jobs = {name: child("Job", name) for name in ("none", *phases, "over")}
    for name, each in jobs.items():
        each["metadata"]["uid"] = f"uid-{name}"
    jobs["over"]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    pods = [
        child("Pod", f"pod-{name}", owner=f"uid-{name}", status={"phase": phase})
        for name, phase in phases.items()
    ]
    pending = pending_objects(volumes=[], jobs=jobs.values(), pods=pods)
    assert {each["metadata"]["name"] for each in pending} == {"none", "failed"}


async def test_all_events_of_a_suspended_job_are_read() -> None:
    """Kueue reports with a Normal event that it finished the Workload of a Job."""
    jobs = {name: child("Job", name, spec={"suspend": name == "held"}) for name in ("held", "free")}
    for name, each in jobs.items():
        each["metadata"]["uid"] = name
    reading, selectors = Reading(job(), *jobs.values()).watched(), set[str]()
    list_ = reading.kube.list

    async def recording(kind: str, *args: Any, **how: Any) -> tuple[Object, ...]:
        selectors.add(how.get("fields", ""))
        return await list_(kind, *args, **how)

    reading.kube.list = recording  # type: ignore[method-assign]
    await reading.read()
    assert selectors == {"involvedObject.uid=held", "type=Warning,involvedObject.uid=free"}


def test_events_are_read_for_at_most_six_objects() -> None:
    pods = [on_a_node(f"p{number}") for number in range(50)]
    assert len(pending_objects(volumes=[], jobs=[], pods=pods)) == 6


def parent(namespace: str = "a") -> dict[str, Any]:
    found = job()
    found["metadata"] |= {"name": "parent", "namespace": namespace, "uid": f"uid-in-{namespace}"}
    return found


def continuing() -> dict[str, Any]:
    return {**job(), "spec": {"training": {"startFrom": {"job": {"name": "parent"}}}}}


async def test_the_job_to_continue_from_is_of_the_same_namespace() -> None:
    reading = Reading(continuing(), parent("b")).watched()
    assert (await reading.read()).parent is None
    reading = Reading(continuing(), parent("b"), parent()).watched()
    found = (await reading.read()).parent
    assert found is not None
    assert found["metadata"]["uid"] == "uid-in-a"
    assert reading.kube.reads == 0
    assert (await Reading(job(), parent()).watched().read()).parent is None


async def test_a_job_to_continue_from_that_is_not_listed_yet_is_read() -> None:
    reading = Reading(continuing()).watched()
    reading.kube.objects["FineTuneJob", "a", "parent"] = found = {
        **parent(),
        "metadata": {**parent()["metadata"], "resourceVersion": "9"},
    }
    assert (await reading.read()).parent is not None
    assert reading.store.put(found) == (("a", "parent"),), "its event is news: it is reconciled"


class Accounting:
    """Budgets and usage that take a while to read, during which the usage changes."""

    def __init__(self) -> None:
        self.version = 0

    async def of(self, job: Object) -> Any:
        await asyncio.sleep(0)
        self.version += 1
        return self.version

    async def read(self, namespace: str) -> Any:
        return self.version

    async def reserve(self, request: Any) -> bool:
        return False


async def test_usage_and_accounts_are_of_the_same_moment() -> None:
    reading, accounting = Reading(job()).watched(), Accounting()
    reader: Any = replace(reading.reader, budgets=cast(Any, accounting), usage=accounting)
    snapshot = await reader.read(KEY)
    assert snapshot.usage == snapshot.accounts == 1


@pytest.mark.parametrize(
    ("generation", "frozen", "reads"), [(1, "parent", 0), (0, "parent", 1), (1, "other", 1)]
)
async def test_a_job_whose_adapter_is_frozen_already_is_not_read(
    generation: int, frozen: str, reads: int
) -> None:
    revisions = [{"revision": "r1", "stages": [], "frozen": {"parent": {"job": frozen}}}]
    status = {"observedGeneration": generation, "revision": "r1", "revisions": revisions}
    reading = Reading({**continuing(), "status": status}).watched()
    await reading.read()
    before = reading.kube.reads
    await reading.read()
    assert reading.kube.reads == before + reads
