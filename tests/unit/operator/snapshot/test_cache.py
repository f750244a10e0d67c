"""The cached snapshot of a job, and the events that invalidate it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import MemoryKube, child, job
from tests.fakes.pod_metrics import FakePodMetrics

import finetune_operator.snapshot.cache
from finetune_operator.objects.digest import job_version, object_version
from finetune_operator.snapshot import reader
from finetune_operator.snapshot.cache import (
    ALL_KINDS,
    WATCHED_KINDS,
    SnapshotCache,
    SnapshotUpdate,
)
from finetune_operator.types import LISTS, Snapshot

KEY = ("a", "demo")
VERSIONS = st.sampled_from(["1", "2", "3"])


def pod(version: str = "1", uid: str = "p") -> dict[str, Any]:
    each: dict[str, Any] = child("Pod", "p")
    each["metadata"] |= {"uid": uid, "resourceVersion": version}
    return each


def committed(*pods: dict[str, Any], due: float = 10.0) -> SnapshotCache:
    """Return a cache after a reconcile that observed these pods."""
    cache = SnapshotCache()
    commit(cache, Snapshot(job=job(), pods=pods), due=due)
    return cache


def commit(cache: SnapshotCache, snapshot: Snapshot, *, due: float = 10.0) -> None:
    cache.checkout()
    cache.commit(SnapshotUpdate(snapshot=snapshot), due=due)


def stale(cache: SnapshotCache) -> set[str]:
    return set(cache.checkout()[1])


def cached(cache: SnapshotCache) -> Snapshot | None:
    entry, _ = cache.checkout()
    return None if entry is None else entry.snapshot


def test_the_first_reconcile_reads_all_kinds() -> None:
    assert SnapshotCache().checkout() == (None, ALL_KINDS)


def test_the_snapshot_is_cached_without_managed_fields() -> None:
    snapshot = Snapshot(job=job(a=1), pods=(pod(),), services=(child("Service", "s"),))
    managed = {**pod(), "metadata": {**pod()["metadata"], "managedFields": [{"manager": "m"}]}}
    cache = SnapshotCache()
    commit(cache, Snapshot(**{**vars(snapshot), "pods": (managed,)}))
    assert cached(cache) == snapshot


@given(
    reconciles=st.lists(
        st.lists(st.tuples(st.sampled_from(["FineTuneJob", *LISTS]), VERSIONS), max_size=2)
    )
)
def test_a_reconcile_starts_with_what_the_previous_one_read_and_wrote(
    reconciles: list[list[tuple[str, str]]],
) -> None:
    """The snapshot is the same whether everything is packed again, or only the job."""
    cache, snapshot = SnapshotCache(), Snapshot(job=job())
    commit(cache, snapshot)
    for writes in reconciles:
        entry, _ = cache.checkout()
        assert entry is not None
        assert entry.snapshot == snapshot
        update = SnapshotUpdate(snapshot=entry.snapshot, cached=entry)
        for kind, version in writes:
            written = job(version=version) if kind == "FineTuneJob" else child(kind, "c")
            written["metadata"] |= {"uid": f"uid-{kind}", "resourceVersion": version}
            update.record(kind, written)
        cache.commit(update, due=0)
        snapshot = update.snapshot
    assert cached(cache) == snapshot


def test_children_are_packed_again_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[set[str]] = []
    pack = finetune_operator.snapshot.cache._pack

    def recorded(value: dict[str, Any]) -> bytes:
        packed.append(set(value))
        return pack(value)

    monkeypatch.setattr(finetune_operator.snapshot.cache, "_pack", recorded)
    cache = committed(pod())
    for written in (job(a=1), pod("2")):
        entry, _ = cache.checkout()
        assert entry is not None
        update = SnapshotUpdate(snapshot=entry.snapshot, cached=entry)
        packed.clear()
        update.record(written["kind"], written)
        cache.commit(update, due=0)
        assert (set(LISTS.values()) in packed) == (written["kind"] == "Pod")
        assert set(job()) in packed


def test_a_failed_reconcile_leaves_no_entry() -> None:
    cache = committed()
    cache.checkout()
    assert cache.checkout() == (None, ALL_KINDS)


def test_another_value_of_a_pod_makes_a_reconcile_due_without_a_read() -> None:
    cache = committed(pod(), due=100)
    assert cache.not_due_for(1) == 99
    cache.make_due()
    assert cache.not_due_for(1) == 0
    assert stale(cache) == set()


def test_another_value_of_a_pod_during_a_reconcile_makes_the_next_one_due() -> None:
    cache = SnapshotCache()
    cache.checkout()
    cache.make_due()
    cache.commit(SnapshotUpdate(snapshot=Snapshot(job=job())), due=100)
    assert cache.not_due_for(1) == 0


@given(events=st.lists(st.tuples(st.sampled_from(sorted(LISTS)), VERSIONS)), observed=VERSIONS)
def test_an_event_invalidates_its_kind_unless_its_version_was_observed(
    events: list[tuple[str, str]], observed: str
) -> None:
    """The same during a reconcile and after it."""
    for during in (0, len(events) // 2, len(events)):
        cache = SnapshotCache()
        cache.checkout()
        for kind, version in events[:during]:
            cache.invalidate(kind, object_version(pod(version)))
        snapshot = Snapshot(job=job(), pods=(pod(observed),))
        cache.commit(SnapshotUpdate(snapshot=snapshot), due=10)
        for kind, version in events[during:]:
            is_news = cache.invalidate(kind, object_version(pod(version)))
            assert is_news == (version != observed)
        assert stale(cache) == {kind for kind, version in events if version != observed}


@pytest.mark.parametrize("at", ["during the reconcile", "after it", "at rest"])
def test_an_event_of_a_job_is_no_news_if_only_its_status_changed(at: str) -> None:
    cache, read = SnapshotCache(), job(a=1)
    cache.checkout()
    cache.observed(read)
    if at != "during the reconcile":
        cache.commit(SnapshotUpdate(snapshot=Snapshot(job=read)), due=10)
    if at == "at rest":
        cache.clear()
    assert not cache.invalidate("FineTuneJob", job_version(job(a=2)))
    assert cache.invalidate("FineTuneJob", job_version({**read, "spec": {"suspend": True}}))
    if at == "during the reconcile":
        cache.commit(SnapshotUpdate(snapshot=Snapshot(job=read)), due=10)
    assert stale(cache) == (ALL_KINDS if at == "at rest" else {"FineTuneJob"})


def test_an_event_without_a_version_is_always_news() -> None:
    cache = committed(pod())
    assert cache.invalidate("Pod", None)
    assert cache.invalidate("FineTuneJob", None)
    assert stale(cache) == {"Pod", "FineTuneJob"}


def test_a_reconcile_is_due_at_its_time_or_after_an_event() -> None:
    assert SnapshotCache().not_due_for(0) == 0
    cache = committed(pod(), due=10)
    assert (cache.not_due_for(4), cache.not_due_for(11)) == (6, 0)
    cache.invalidate("Pod", object_version(pod("1")))
    assert cache.not_due_for(4) == 6
    cache.invalidate("Pod", object_version(pod("2")))
    assert cache.not_due_for(4) == 0


def test_events_after_clear_are_news_and_are_not_stored() -> None:
    cache = committed(pod())
    cache.clear()
    assert cache.invalidate("Pod", object_version(pod("1")))
    assert cache.checkout() == (None, ALL_KINDS)


def test_clear_during_a_reconcile_prevents_its_commit() -> None:
    """Events between the clear and the commit were not stored, so the entry would be stale."""
    cache = SnapshotCache()
    cache.checkout()
    cache.clear()
    snapshot = Snapshot(job=job(), pods=(pod(),))
    cache.commit(SnapshotUpdate(snapshot=snapshot), due=10)
    assert cache.invalidate("Pod", object_version(pod("2")))
    assert cache.not_due_for(4) == 0
    assert cache.checkout() == (None, ALL_KINDS)


def test_a_write_updates_the_snapshot_with_the_response() -> None:
    update = SnapshotUpdate(snapshot=Snapshot(job=job(), pods=(pod("1"), pod("1", uid="q"))))
    update.record("Pod", pod("2"))
    update.record("FineTuneJob", job(a=1))
    update.record("Job", None)
    assert update.snapshot.pods == (pod("1", uid="q"), pod("2"))
    assert update.snapshot.job == job(a=1)
    cache = SnapshotCache()
    cache.checkout()
    cache.commit(update, due=0)
    assert stale(cache) == {"Job"}


@pytest.mark.parametrize("kind", sorted(LISTS))
async def test_only_the_stale_kind_is_read(kind: str) -> None:
    """Except for Jobs: the pods must never be older than their Jobs."""
    kube = MemoryKube(job())
    before = await reader.read(kube, KEY, FakePodMetrics())
    for each in LISTS:
        new = child(each, "new", status={"phase": "Bound", "ready": 1})
        kube.objects[each, "a", "new"] = {**new, "metadata": {**new["metadata"], "uid": each}}
    kube.reads = 0
    snapshot = await reader.read(kube, KEY, FakePodMetrics(), cached=before, kinds={kind})
    read = {each for each, name in LISTS.items() if getattr(snapshot, name)}
    assert read == ({"Job", "Pod"} if kind == "Job" else {kind})
    assert kube.reads == len(read)


async def test_without_a_stale_kind_nothing_is_read() -> None:
    kube = MemoryKube(job())
    before = await reader.read(kube, KEY, FakePodMetrics())
    kube.reads = 0
    assert (
        await reader.read(kube, KEY, FakePodMetrics(), cached=before, kinds=frozenset()) == before
    )
    assert kube.reads == 0


async def test_a_confirmation_costs_five_reads() -> None:
    kube = MemoryKube(job())
    before = await reader.read(kube, KEY, FakePodMetrics())
    assert before is not None
    kube.reads = 0
    assert await reader.confirm(kube, KEY, before, WATCHED_KINDS) == before
    assert kube.reads == 5


async def test_cached_children_of_an_earlier_job_are_not_used() -> None:
    kube = MemoryKube(job(), child("ConfigMap", "c"))
    before = await reader.read(kube, KEY, FakePodMetrics())
    another = {**job(), "metadata": {**job()["metadata"], "uid": "another"}}
    kube.objects["FineTuneJob", *KEY] = another
    del kube.objects["ConfigMap", "a", "c"]
    snapshot = await reader.read(kube, KEY, FakePodMetrics(), cached=before, kinds={"FineTuneJob"})
    assert snapshot is not None
    assert (snapshot.job["metadata"]["uid"], snapshot.configmaps) == ("another", ())


async def test_a_deleted_job_has_no_snapshot_although_it_is_cached() -> None:
    kube = MemoryKube(job())
    before = await reader.read(kube, KEY, FakePodMetrics())
    del kube.objects["FineTuneJob", *KEY]
    assert (
        await reader.read(kube, KEY, FakePodMetrics(), cached=before, kinds={"FineTuneJob"}) is None
    )


@pytest.mark.parametrize("kind", sorted(LISTS))
@pytest.mark.parametrize("fate", ["terminating", "of an earlier job", "stays"])
def test_unwatched_kinds_are_read_again_while_one_is_being_deleted(kind: str, fate: str) -> None:
    each = child(kind, "c", owner="before" if fate == "of an earlier job" else "uid-of-demo")
    each["metadata"] |= {"uid": "c", "resourceVersion": "1"}
    if fate == "terminating":
        each["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cache = SnapshotCache()
    lists: dict[str, Any] = {LISTS[kind]: (each,)}
    commit(cache, Snapshot(job=job(), **lists))
    assert stale(cache) == (set() if fate == "stays" or kind in WATCHED_KINDS else {kind})
