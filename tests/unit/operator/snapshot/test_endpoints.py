"""The jobs of an endpoint, the pod whose gate is asked, and who is woken."""

import base64
import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.fakes.kube_client import MemoryKube
from tests.support.reconcile.endpoint_world import SETTINGS, START, World

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.endpoint_followers import EndpointFollowers
from finetune_operator.kube.errors import Transient
from finetune_operator.objects import naming
from finetune_operator.reconcile.endpoints import plan as planner
from finetune_operator.snapshot.endpoints import AttachedJobs, EndpointReader, serving_gate
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.scraping.gates import Gates
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import ENDPOINTS, JOBS
from finetune_operator.types import Key, Object

KEY = ("team", "shared")


class Controllers:
    """Records who is woken."""

    def __init__(self) -> None:
        self.woken: list[Key] = []

    def notify(self, key: Key, kind: str, version: int, urgent: bool) -> None:
        self.woken.append(key)


class Jobs:
    """A store of jobs, and a world that makes them."""

    def __init__(self) -> None:
        self.store, self.world, self.version = ObjectStore(JOBS), World(), 0

    def put(self, job: dict[str, Any]) -> None:
        self.version += 1
        metadata = {**job["metadata"], "resourceVersion": str(self.version), "generation": 1}
        kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
        self.store.put(copy.deepcopy({**kind, **job, "metadata": metadata}))

    def delete(self, job: dict[str, Any]) -> None:
        self.version += 1
        metadata = {**job["metadata"], "resourceVersion": str(self.version)}
        self.store.remove({**job, "kind": "FineTuneJob", "metadata": metadata})


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


def names(attached: AttachedJobs, key: Key = KEY) -> list[str]:
    return [each["metadata"]["name"] for each in attached.of(key)]


def test_jobs_are_found_by_spec_and_by_status(jobs: Jobs) -> None:
    jobs.put(jobs.world.publish("early"))
    attached = AttachedJobs(jobs=jobs.store)
    assert names(attached) == ["early"]
    leaving = jobs.world.publish("leaving", "2")
    leaving["spec"] = {"serving": {"mode": "merged"}}
    jobs.put(leaving)
    new = jobs.world.publish("new")
    new["status"] = {}
    jobs.put(new)
    jobs.put({"metadata": {"name": "other", "namespace": "team", "uid": "u"}, "spec": {}})
    assert names(attached) == ["early", "leaving", "new"]
    assert attached.keys(KEY) == {("team", "early"), ("team", "leaving"), ("team", "new")}
    jobs.delete(new)
    assert names(attached) == ["early", "leaving"]
    assert names(attached, ("elsewhere", "shared")) == []


def test_an_endpoint_is_woken_only_by_what_it_reads(jobs: Jobs) -> None:
    attached = AttachedJobs(jobs=jobs.store)
    job = jobs.world.publish("a")
    jobs.put(job)
    assert attached.changed.is_set()
    assert attached.take_changed() == {KEY}
    job["status"]["progress"] = "50%"
    jobs.put(job)
    assert not attached.changed.is_set()
    assert attached.take_changed() == frozenset()
    job["spec"]["serving"]["endpointRef"]["name"] = "another"
    jobs.put(job)
    assert attached.take_changed() == {KEY, ("team", "another")}
    jobs.delete(job)
    assert attached.take_changed() == {KEY, ("team", "another")}


def test_others_follow_the_store_as_well(jobs: Jobs) -> None:
    seen: list[Key] = []
    jobs.store.on_own_change = lambda key, item: seen.append(key)
    AttachedJobs(jobs=jobs.store)
    jobs.put(jobs.world.publish("a"))
    assert seen == [("team", "a")]


def test_jobs_are_woken_by_what_they_read(jobs: Jobs) -> None:
    world, woken = jobs.world, Controllers()
    jobs.put(world.publish("a"))
    attached = AttachedJobs(jobs=jobs.store)
    followers = EndpointFollowers(
        jobs=cast(Controller[Any], woken), attached=attached, gates=Gates()
    )
    world.endpoint["metadata"]["resourceVersion"] = "1"

    def observe() -> int:
        before = len(woken.woken)
        world.step()
        followers.observed(KEY, world.snapshot(), world.status)
        return len(woken.woken) - before

    assert observe() == 1
    assert observe() == 1, "the volume has a uid"
    assert observe() == 0, "nothing has changed"
    world.end_base()
    assert observe() == 1
    world.serve()
    assert observe() == 1
    assert observe() == 0
    followers.forget(KEY)
    assert woken.woken[-1] == ("team", "a"), "the endpoint was deleted"


def test_a_new_list_is_sent_once_its_number_is_in_the_status(jobs: Jobs) -> None:
    world, sent = jobs.world, list[str]()

    class Recorded(Gates):
        def offer(self, key: Key, number: int, document: str) -> None:
            payload = base64.b64decode(json.loads(document)["payload"])
            assert (key, number) == (KEY, json.loads(payload)["sequence"])
            sent.append(document)

    followers = EndpointFollowers(
        jobs=cast(Controller[Any], Controllers()),
        attached=AttachedJobs(jobs=jobs.store),
        gates=Recorded(),
    )

    def step() -> None:
        before = world.snapshot()
        followers.written(before, world.plan())
        world.step()

    step()
    assert not sent
    world.end_base()
    step()
    assert len(sent) == 1
    step()
    assert len(sent) == 1, "the same list"
    world.publish("a")
    step()
    assert len(sent) == 2
    assert sent[0] != sent[1]


def reader(jobs: Jobs, listed: list[dict[str, Any]]) -> tuple[EndpointReader, list[str]]:
    """Return a reader of the endpoint, and the namespaces of which it lists the jobs."""
    lists = list[str]()

    class Listed(MemoryKube):
        of_stage: Mapping[str, list[Object]] = {}

        async def list(self, kind: str, namespace: str = "", **query: Any) -> tuple[Object, ...]:
            if kind in ("Job", "Pod"):
                managed = "app.kubernetes.io/managed-by=finetune-operator"
                assert query == {"labels": f"{managed},finetune.dev/stage in (publish)"}
                return tuple(self.of_stage.get(kind, ()))
            assert kind == "FineTuneJob"
            lists.append(namespace)
            return tuple(listed)

    store = ObjectStore(ENDPOINTS)
    metadata = {**jobs.world.endpoint["metadata"], "resourceVersion": "1"}
    store.put({**jobs.world.endpoint, "metadata": metadata})
    found = EndpointReader(
        live=LiveReader(kube=Listed(), store=store),
        jobs=AttachedJobs(jobs=jobs.store),
        gates=Gates(),
        settings=SETTINGS,
    )
    return found, lists


def with_folders(endpoints: EndpointReader, *jobs: dict[str, Any]) -> None:
    """List the folders of some jobs in the status of the endpoint."""
    store = endpoints.live.store
    endpoint = copy.deepcopy(dict(store.owner(KEY) or {}))
    endpoint["metadata"]["resourceVersion"] = "2"
    names = [{name: each["metadata"][name] for name in ("name", "uid")} for each in jobs]
    folders = [{"job": each["name"], "uid": each["uid"]} for each in names]
    store.put({**endpoint, "status": {"folders": folders}})


def of_publishing(kind: str, version: int, **status: Any) -> dict[str, Any]:
    """Return the publish Job of the job ``a``, or its pod."""
    labels = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune.dev/job": "a",
        "finetune.dev/stage": "publish",
    }
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "v1",
        "kind": kind,
        "metadata": {
            "name": "a-0badbeef-publish-1",
            "namespace": "team",
            "uid": kind,
            "labels": labels,
            "resourceVersion": str(version),
        },
        "spec": {},
        "status": status,
    }


async def deleted(endpoints: EndpointReader, *live: str) -> set[str]:
    snapshot = await endpoints.read(KEY, live={*live})
    assert snapshot is not None
    return {*snapshot.deleted_jobs}


async def test_only_jobs_that_do_not_exist_are_deleted(jobs: Jobs) -> None:
    """One that has moved away exists, and so does another one with the name of a deleted job."""
    here, away, gone = (jobs.world.publish(name) for name in ("here", "away", "gone"))
    away["spec"], away["status"] = {"serving": {"mode": "merged"}}, {}
    again = {**gone, "metadata": {**gone["metadata"], "uid": "uid-of-the-second"}}
    for job in (here, away, again):
        jobs.put(job)
    endpoints, _ = reader(jobs, [])
    with_folders(endpoints, here, away, again, gone)
    assert await deleted(endpoints) == {"uid-of-gone"}
    jobs.delete(away)
    assert await deleted(endpoints) == {"uid-of-gone", "uid-of-away"}


async def test_a_job_is_not_deleted_while_it_is_stored_as_an_earlier_one(jobs: Jobs) -> None:
    """The store of a new leader can be older than the status that the previous one has written."""
    early = jobs.world.publish("a")
    now = {**early, "metadata": {**early["metadata"], "uid": "uid-of-the-second"}}
    jobs.put(early)
    endpoints, _ = reader(jobs, [versioned(now, 2)])
    with_folders(endpoints, now)
    with pytest.raises(Transient, match="FineTuneJob a"):
        await endpoints.read(KEY, live={"FineTuneJob"})
    jobs.put(now)
    assert not await deleted(endpoints, "FineTuneJob")


async def test_a_job_is_not_deleted_because_the_endpoint_is_read_again(jobs: Jobs) -> None:
    """The endpoint is read after the jobs, and lists a job that the store does not have yet."""
    early = jobs.world.publish("a")
    now = {**early, "metadata": {**early["metadata"], "uid": "uid-of-the-second"}}
    jobs.put(early)
    endpoints, _ = reader(jobs, [versioned(now, 2)])
    stored = endpoints.live.store.owner(KEY) or {}
    newer = {
        **stored,
        "kind": "FineTuneEndpoint",
        "metadata": {**stored["metadata"], "resourceVersion": "2"},
        "status": {"folders": [{"job": "a", "uid": "uid-of-the-second"}]},
    }
    cast(MemoryKube, endpoints.live.kube).objects["FineTuneEndpoint", *KEY] = newer
    with pytest.raises(Transient, match="FineTuneJob a"):
        await deleted(endpoints, "FineTuneJob", "FineTuneEndpoint")
    jobs.put(now)
    assert not await deleted(endpoints, "FineTuneJob", "FineTuneEndpoint")


@pytest.mark.parametrize(
    ("running", "ended"),
    [
        (of_publishing("Job", 1), of_publishing("Job", 2, conditions=[
            {"type": "Complete", "status": "True"},
        ])),
        (of_publishing("Pod", 1, phase="Running"), of_publishing("Pod", 2, phase="Failed")),
    ],
)  # fmt: skip
async def test_a_job_whose_pod_may_still_write_is_not_deleted_yet(
    jobs: Jobs, running: dict[str, Any], ended: dict[str, Any]
) -> None:
    endpoints, _ = reader(jobs, [])
    with_folders(endpoints, jobs.world.publish("a"))
    assert await deleted(endpoints) == {"uid-of-a"}
    of_stage = {running["kind"]: [running]}
    cast(Any, endpoints.live.kube).of_stage = of_stage
    assert not await deleted(endpoints, "FineTuneJob"), "it is read live"
    assert not await deleted(endpoints), "it is known from now on"
    jobs.store.put(ended)
    assert await deleted(endpoints) == {"uid-of-a"}


def versioned(job: dict[str, Any], version: int) -> dict[str, Any]:
    return {**job, "metadata": {**job["metadata"], "resourceVersion": str(version)}}


async def test_an_endpoint_is_not_planned_before_its_jobs_are_read(jobs: Jobs) -> None:
    first, second = jobs.world.publish("first"), jobs.world.publish("second", "2")
    jobs.put(first)
    endpoints, lists = reader(jobs, [versioned(first, 1), versioned(second, 2)])
    with pytest.raises(Transient, match="second"):
        await endpoints.read(KEY)
    jobs.put(second)
    for _ in range(3):
        snapshot = await endpoints.read(KEY)
        assert snapshot is not None
        assert len(snapshot.finetunejobs) == 2
    assert lists == ["team"] * 2, "they are listed until all have been read"
    endpoints.forget(KEY)
    await endpoints.read(KEY)
    assert len(lists) == 3, "another replica may have led in the meantime"


async def test_a_name_is_removed_only_after_its_job_was_listed(jobs: Jobs) -> None:
    world, job = jobs.world, jobs.world.publish("a")
    jobs.put(job)
    world.prepare()
    world.serve()
    world.step()
    endpoints, lists = reader(jobs, [versioned(job, 1)])
    await endpoints.read(KEY)
    snapshot = world.snapshot()
    assert planner.confirmation(snapshot, planner.plan(snapshot, now=START)).cause == ""
    stale = replace(snapshot, finetunejobs=())
    needed = planner.confirmation(stale, planner.plan(stale, now=START))
    assert (needed.cause, set(needed.kinds)) == ("names", {"FineTuneJob"})
    await endpoints.read(KEY, live=needed.kinds)
    assert len(lists) == 2
    jobs.delete(job)
    with pytest.raises(Transient, match="FineTuneJob a"):
        await endpoints.read(KEY, live=needed.kinds)


async def test_a_served_job_is_read_in_its_present_version(jobs: Jobs) -> None:
    world, job = jobs.world, jobs.world.publish("a")
    world.prepare()
    world.serve()
    world.step()
    jobs.put({**job, "status": {}})
    endpoints, _ = reader(jobs, [versioned(job, 2)])
    with pytest.raises(Transient, match="FineTuneJob a"):
        await endpoints.read(KEY)
    jobs.put(job)
    assert await endpoints.read(KEY) is not None


async def test_the_claim_with_the_base_is_read_before_it_counts_as_lost(jobs: Jobs) -> None:
    """A claim without its labels looks deleted to a watch with a selector."""
    world = jobs.world
    world.prepare()
    claim = world.objects[naming.VOLUME, "shared-endpoint"]
    metadata = {**claim["metadata"], "resourceVersion": "1", "labels": {}}
    endpoints, _ = reader(jobs, [])
    key = (naming.VOLUME, "team", "shared-endpoint")
    kube = cast(MemoryKube, endpoints.live.kube)
    kube.objects[key] = {**claim, "kind": naming.VOLUME, "metadata": metadata}
    for _ in range(2):
        reads = kube.reads
        snapshot = await endpoints.read(KEY)
        assert snapshot is not None
        assert kube.reads == reads + 1
        assert [each["metadata"]["uid"] for each in snapshot.volumes] == [world.status["volume"]]
    assert snapshot is not None
    plan = planner.plan(replace(world.snapshot(), volumes=snapshot.volumes), now=START)
    assert plan.status["volume"] == world.status["volume"]
    assert naming.VOLUME not in {action.object["kind"] for action in plan.actions}
    metadata["uid"] = "uid-of-another"
    other = await endpoints.read(KEY)
    assert other is not None
    assert other.volumes == ()


def pod(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {
            "name": "shared-finetune-endpoint-abc-x",
            "uid": "uid-of-pod",
            "labels": {"pod-template-hash": "abc"},
            "creationTimestamp": "2026-11-30T08:00:00Z",
            "ownerReferences": [
                {
                    "kind": "ReplicaSet",
                    "name": "shared-finetune-endpoint-abc",
                    "uid": "r",
                    "controller": True,
                }
            ],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.9"},
    }
    found["metadata"] |= changes.get("metadata", {})
    found["status"] |= changes.get("status", {})
    return found


@pytest.mark.parametrize(
    ("changes", "is_asked"),
    [
        ({}, True),
        ({"status": {"phase": "Pending"}}, False),
        ({"status": {"podIP": ""}}, False),
        ({"metadata": {"deletionTimestamp": "2026-11-30T09:00:00Z"}}, False),
        ({"metadata": {"ownerReferences": []}}, False),
    ],
)
def test_only_a_running_pod_of_the_deployment_is_asked(
    jobs: Jobs, changes: dict[str, Any], is_asked: bool
) -> None:
    world = jobs.world
    world.prepare()
    deployment = world.deployment
    assert deployment is not None
    found = serving_gate(world.endpoint, [deployment], [pod(**changes)])
    assert (found is not None) == is_asked
    foreign = {**deployment, "metadata": {**deployment["metadata"], "ownerReferences": []}}
    assert serving_gate(world.endpoint, [foreign], [pod()]) is None
