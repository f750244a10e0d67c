"""The profiles of a job's snapshot, and which jobs a changed profile wakes."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import pytest
from tests.fakes.apiserver import CONFIG
from tests.fakes.kube_client import MemoryKube, job

from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.followers import ProfileFollowers
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.running import RunningKind
from finetune_operator.kube.client import Kube, Page
from finetune_operator.objects.compact.trimming import MAX_DEPTH
from finetune_operator.revisions.profiles import parse
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.profiles import Profiles
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import PROFILES
from finetune_operator.types import Key, ProfileSnapshot

Thing = dict[str, Any]


def profile(name: str, version: int = 1, *, default: bool = False, generation: int = 1) -> Thing:
    metadata: Thing = {
        "name": name,
        "uid": f"uid-of-{name}",
        "generation": generation,
        "resourceVersion": str(version),
        "annotations": {"example.com/other": "x"},
    }
    if default:
        metadata["annotations"][DEFAULT_ANNOTATION] = "true"
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile"}
    return {**kind, "metadata": metadata, "spec": {"defaults": {}}}


def names(found: tuple[Any, ...]) -> list[str]:
    return sorted(each["metadata"]["name"] for each in found)


async def test_a_job_gets_the_profile_that_it_names_or_the_default_ones() -> None:
    kube = MemoryKube(profile("late"))
    store = ObjectStore(PROFILES)
    profiles = Profiles(live=LiveReader(kube=kube, store=store))
    store.put(profile("a", 1))
    store.put(profile("b", 2, default=True))
    named: Thing = {"spec": {"profile": "a"}}
    assert names(await profiles.of(named)) == ["a"]
    assert kube.reads == 0
    # kopf may not have listed it yet.
    assert names(await profiles.of({"spec": {"profile": "late"}})) == ["late"]
    assert store.put(profile("late")) == (("", "late"),), "its event is news: it has no status yet"
    assert await profiles.of({"spec": {"profile": "absent"}}) == ()
    unnamed: Thing = {"spec": {}}
    assert names(await profiles.of(unnamed)) == ["b"]
    store.put(profile("a", 30, default=True))
    store.put(profile("b", 31))
    assert names(await profiles.of(unnamed)) == ["a"]
    store.remove(profile("a", 32))
    assert await profiles.of(unnamed) == ()


def nested(levels: int) -> Thing:
    value: Thing = {}
    for _ in range(levels):
        value = {"x": value}
    return value


class Listed:
    """Lists objects; the JSON of the other stand-in has a limit of its own."""

    def __init__(self, *objects: Thing) -> None:
        self.objects = list(objects)

    async def pages(self, kind: str) -> AsyncGenerator[Page, None]:
        yield Page(list[Mapping[str, Any]](self.objects), "9")


@pytest.mark.parametrize("levels", [MAX_DEPTH, 1010])
async def test_a_deeply_nested_profile_is_invalid_and_the_others_are_listed(levels: int) -> None:
    deep = profile("deep", 2, default=True)
    deep["spec"] = {"defaults": nested(levels), "limits": {"maxReplicas": 2}}
    edge = profile("edge", 3)
    edge["spec"] = {"defaults": nested(MAX_DEPTH - 1)}
    store = ObjectStore(PROFILES)
    kube = cast(Kube, Listed(profile("a", 1), deep, edge))
    profiles = Profiles(live=LiveReader(kube=kube, store=store))
    await profiles.list()
    assert names(tuple(store.owner(key) for key in store.own_keys())) == ["a", "deep", "edge"]
    stored, whole = store.owner(("", "deep")), store.owner(("", "edge"))
    assert stored is not None
    assert whole is not None
    assert whole["spec"] == edge["spec"]
    found = parse(stored, CONFIG)
    assert found.problem is not None
    assert found.problem.reason == Reason.TOO_LARGE
    assert f"more than {MAX_DEPTH} levels" in found.problem.message
    assert found.limits is not None
    assert found.limits.max_replicas == 2


class Jobs:
    """Stands for the controllers of jobs and of profiles, and for the resync."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.reconciler = store, self
        self.woken: list[str] = []

    def notify(self, key: Key, kind: str, version: int, urgent: bool) -> None:
        self.woken.append(key[1])

    def taken(self) -> list[str]:
        woken, self.woken = self.woken, []
        return sorted(woken)


def test_a_changed_profile_wakes_the_jobs_that_use_it() -> None:
    store = ObjectStore()
    for name, written in (("uses-a", "a"), ("uses-b", "b"), ("plain", None)):
        each = job()
        each["metadata"]["name"] = name
        each["spec"] = {} if written is None else {"profile": written}
        each["metadata"]["resourceVersion"] = "1"
        store.put(each)
    jobs = Jobs(store)
    followers = ProfileFollowers(jobs=cast(Controller[Any], jobs))

    def reconciled(**changes: Any) -> list[str]:
        found = profile("a", **changes)
        snapshot = ProfileSnapshot(profile=found, settings=CONFIG)
        followers.observed(("", "a"), snapshot, {})
        followers.wake()
        return jobs.taken()

    assert reconciled() == ["uses-a"]
    assert reconciled() == []
    assert reconciled(generation=2) == ["uses-a"]
    assert reconciled(generation=2, default=True) == ["plain", "uses-a"]
    assert reconciled(generation=3) == ["plain", "uses-a"]
    followers.forget(("", "a"))
    followers.wake()
    assert jobs.taken() == ["uses-a"]


def test_of_the_annotations_only_that_of_the_default_is_kept() -> None:
    jobs = Jobs(ObjectStore(PROFILES))
    running = RunningKind(controller=cast(Controller[Any], jobs), resync=cast(Resync, jobs))
    running.deliver("ADDED", profile("a", 1))
    running.deliver("MODIFIED", profile("a", 2, default=True))
    running.deliver("MODIFIED", profile("a", 3, default=True))
    assert jobs.taken() == ["a", "a"], "the annotation is news"
    stored = jobs.store.owner(("", "a"))
    assert stored is not None
    assert stored["metadata"]["annotations"] == {DEFAULT_ANNOTATION: "true"}
