"""What is known of a job between two looks, and when it is read again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import MemoryKube, child, job

import finetune_operator.snapshot.cache
from finetune_operator.snapshot.cache import (
    DECISIVE,
    EVERYTHING,
    SnapshotCache,
    SnapshotUpdate,
    version_of,
)
from finetune_operator.snapshot.reader import observe, reread
from finetune_operator.types import LISTS, Snapshot

KEY = ("a", "demo")
VERSIONS = st.sampled_from(["1", "2", "3"])


def pod(version: str = "1", uid: str = "p") -> dict[str, Any]:
    found: dict[str, Any] = child("Pod", "p")
    found["metadata"] |= {"uid": uid, "resourceVersion": version}
    return found


def looked(views: SnapshotCache, *pods: dict[str, Any], due: float = 10.0) -> None:
    views.begin(KEY)
    views.keep(KEY, SnapshotUpdate(snapshot=Snapshot(job=job(), pods=pods)), due=due)


def outdated(views: SnapshotCache) -> set[str]:
    return set(views.begin(KEY)[1])


def known(views: SnapshotCache) -> Snapshot | None:
    begun, _ = views.begin(KEY)
    return None if begun is None else begun.snapshot


async def nothing(address: str, port: int) -> str | None:
    raise AssertionError(f"{address} was asked")


def test_the_first_look_reads_everything() -> None:
    assert SnapshotCache().begin(KEY) == (None, EVERYTHING)


def test_what_was_seen_is_known_but_for_who_wrote_which_field() -> None:
    views, snapshot = (
        SnapshotCache(),
        Snapshot(job=job(a=1), pods=(pod(),), services=(child("Service", "s"),)),
    )
    managed = {**pod(), "metadata": {**pod()["metadata"], "managedFields": [{"manager": "m"}]}}
    views.begin(KEY)
    views.keep(
        KEY, SnapshotUpdate(snapshot=Snapshot(**{**vars(snapshot), "pods": (managed,)})), due=0
    )
    assert known(views) == snapshot


@given(
    looks=st.lists(
        st.lists(st.tuples(st.sampled_from(["FineTuneJob", *LISTS]), VERSIONS), max_size=2)
    )
)
def test_a_look_knows_what_the_one_before_it_saw_and_wrote(
    looks: list[list[tuple[str, str]]],
) -> None:
    """Whether all of it is packed again, or only the job."""
    views, snapshot = SnapshotCache(), Snapshot(job=job())
    views.begin(KEY)
    views.keep(KEY, SnapshotUpdate(snapshot=snapshot), due=0)
    for writes in looks:
        begun, _ = views.begin(KEY)
        assert begun is not None
        assert begun.snapshot == snapshot
        view = SnapshotUpdate(snapshot=begun.snapshot, known=begun)
        for kind, version in writes:
            answer = job(version=version) if kind == "FineTuneJob" else child(kind, "c")
            answer["metadata"] |= {"uid": f"uid-{kind}", "resourceVersion": version}
            view.wrote(kind, answer)
        views.keep(KEY, view, due=0)
        snapshot = view.snapshot
    assert known(views) == snapshot


def test_what_a_job_owns_is_packed_again_only_where_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[set[str]] = []
    usual = finetune_operator.snapshot.cache._packed

    def recorded(what: dict[str, Any]) -> bytes:
        packed.append(set(what))
        return usual(what)

    monkeypatch.setattr(finetune_operator.snapshot.cache, "_packed", recorded)
    views = SnapshotCache()
    looked(views, pod())
    for answer in (job(a=1), pod("2")):
        begun, _ = views.begin(KEY)
        assert begun is not None
        view = SnapshotUpdate(snapshot=begun.snapshot, known=begun)
        packed.clear()
        view.wrote(answer["kind"], answer)
        views.keep(KEY, view, due=0)
        assert (set(LISTS.values()) in packed) == (answer["kind"] == "Pod")
        assert set(job()) in packed


def test_a_look_that_did_not_end_well_leaves_nothing() -> None:
    views = SnapshotCache()
    looked(views)
    views.begin(KEY)
    assert views.begin(KEY) == (None, EVERYTHING)


@given(events=st.lists(st.tuples(st.sampled_from(sorted(EVERYTHING)), VERSIONS)), snapshot=VERSIONS)
def test_an_event_outdates_its_kind_unless_that_version_was_seen(
    events: list[tuple[str, str]], snapshot: str
) -> None:
    """Whenever the event comes: while the look is under way, or after it."""
    for during in (0, len(events) // 2, len(events)):
        views = SnapshotCache()
        views.begin(KEY)
        for kind, version in events[:during]:
            views.told(KEY, kind, version_of(pod(version)))
        views.keep(KEY, SnapshotUpdate(snapshot=Snapshot(job=job(), pods=(pod(snapshot),))), due=10)
        for kind, version in events[during:]:
            news = views.told(KEY, kind, version_of(pod(version)))
            assert news == (version != snapshot)
        assert outdated(views) == {kind for kind, version in events if version != snapshot}


def test_an_event_without_a_version_is_always_news() -> None:
    views = SnapshotCache()
    looked(views, pod())
    assert views.told(KEY, "Pod", None)
    assert outdated(views) == {"Pod"}


def test_there_is_nothing_to_look_at_before_it_is_due_or_an_event_says_so() -> None:
    views = SnapshotCache()
    assert views.left(KEY, 0) == 0
    looked(views, pod(), due=10)
    assert (views.left(KEY, 4), views.left(KEY, 11)) == (6, 0)
    views.told(KEY, "Pod", version_of(pod("1")))
    assert views.left(KEY, 4) == 6
    views.told(KEY, "Pod", version_of(pod("2")))
    assert views.left(KEY, 4) == 0


def test_of_a_job_that_is_forgotten_events_are_news_and_are_not_kept() -> None:
    views = SnapshotCache()
    looked(views, pod())
    views.forget(KEY)
    assert views.told(KEY, "Pod", version_of(pod("1")))
    assert views.begin(KEY) == (None, EVERYTHING)


def test_a_look_during_which_the_job_was_forgotten_leaves_nothing() -> None:
    """Or nobody would note the events that follow it."""
    views = SnapshotCache()
    views.begin(KEY)
    views.forget(KEY)
    views.keep(KEY, SnapshotUpdate(snapshot=Snapshot(job=job(), pods=(pod(),))), due=10)
    assert views.told(KEY, "Pod", version_of(pod("2")))
    assert views.left(KEY, 4) == 0
    assert views.begin(KEY) == (None, EVERYTHING)


def test_what_a_look_wrote_is_known_as_the_server_answered() -> None:
    view = SnapshotUpdate(snapshot=Snapshot(job=job(), pods=(pod("1"), pod("1", uid="q"))))
    view.wrote("Pod", pod("2"))
    view.wrote("FineTuneJob", job(a=1))
    view.wrote("Job", None)
    assert view.snapshot.pods == (pod("1", uid="q"), pod("2"))
    assert view.snapshot.job == job(a=1)
    views = SnapshotCache()
    views.begin(KEY)
    views.keep(KEY, view, due=0)
    assert outdated(views) == {"Job"}


@pytest.mark.parametrize("kind", sorted(LISTS))
async def test_a_list_that_is_out_of_date_is_read_alone(kind: str) -> None:
    """But for Jobs: pods must never be older."""
    kube = MemoryKube(job())
    before = await observe(kube, *KEY, nothing)
    for each in LISTS:
        kube.objects[each, "a", "new"] = child(each, "new", status={"phase": "Bound", "ready": 1})
    kube.reads = 0
    snapshot = await observe(kube, *KEY, nothing, before=before, kinds={kind})
    found = {each for each, name in LISTS.items() if getattr(snapshot, name)}
    assert found == ({"Job", "Pod"} if kind == "Job" else {kind})
    assert kube.reads == len(found)


async def test_a_look_with_nothing_new_reads_nothing() -> None:
    kube = MemoryKube(job())
    before = await observe(kube, *KEY, nothing)
    kube.reads = 0
    assert await observe(kube, *KEY, nothing, before=before, kinds=frozenset()) == before
    assert kube.reads == 0


async def test_what_decides_costs_five_reads() -> None:
    kube = MemoryKube(job())
    before = await observe(kube, *KEY, nothing)
    assert before is not None
    kube.reads = 0
    assert await reread(kube, *KEY, before, DECISIVE) == before
    assert kube.reads == 5


async def test_nothing_known_of_a_job_is_taken_for_another_of_its_name() -> None:
    kube = MemoryKube(job(), child("ConfigMap", "c"))
    before = await observe(kube, *KEY, nothing)
    another = {**job(), "metadata": {**job()["metadata"], "uid": "another"}}
    kube.objects["FineTuneJob", *KEY] = another
    del kube.objects["ConfigMap", "a", "c"]
    snapshot = await observe(kube, *KEY, nothing, before=before, kinds={"FineTuneJob"})
    assert snapshot is not None
    assert (snapshot.job["metadata"]["uid"], snapshot.configmaps) == ("another", ())


async def test_a_job_that_is_gone_is_gone() -> None:
    kube = MemoryKube(job())
    before = await observe(kube, *KEY, nothing)
    del kube.objects["FineTuneJob", *KEY]
    assert await observe(kube, *KEY, nothing, before=before, kinds={"FineTuneJob"}) is None


@pytest.mark.parametrize("kind", sorted(LISTS))
@pytest.mark.parametrize("goes", ["deleted", "of an earlier job", "stays"])
def test_of_what_is_not_watched_nothing_else_tells_that_it_has_gone(kind: str, goes: str) -> None:
    each = child(kind, "c", owner="before" if goes == "of an earlier job" else "uid-of-demo")
    each["metadata"] |= {"uid": "c", "resourceVersion": "1"}
    if goes == "deleted":
        each["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    views = SnapshotCache()
    views.begin(KEY)
    lists: dict[str, Any] = {LISTS[kind]: (each,)}
    views.keep(KEY, SnapshotUpdate(snapshot=Snapshot(job=job(), **lists)), due=10)
    assert outdated(views) == (set() if goes == "stays" or kind in DECISIVE else {kind})
