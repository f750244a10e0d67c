"""The jobs of an endpoint, the pod whose gate is asked, and who is woken."""

import base64
import copy
import json
from typing import Any, cast

import pytest
from tests.support.reconcile.endpoint_world import World

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.endpoint_followers import EndpointFollowers
from finetune_operator.snapshot.endpoints import AttachedJobs, serving_gate
from finetune_operator.snapshot.scraping.gates import Gates
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.types import Key

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
