"""The order and the fences of a plan's writes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import MemoryKube, child, job

from finetune_operator.controller.apply import PlanExecutor, normal
from finetune_operator.kube.errors import Conflict, NameConflict, OperatorError, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.snapshot.reader import observe
from finetune_operator.types import Apply, Create, Delete, Event, Plan, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(type="Normal", reason="Preparing", message="preparing")


async def no_scrape(address: str, port: int) -> str | None:
    return None


async def look(kube: MemoryKube) -> Snapshot:
    snapshot = await observe(kube, "a", "demo", no_scrape)
    assert snapshot is not None
    return snapshot


def applier(kube: MemoryKube) -> PlanExecutor:
    return PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))


async def test_the_status_is_written_before_all_and_the_events_after_all() -> None:
    kube = MemoryKube(job(), child("Job", "old"))
    snapshot = await look(kube)
    plan = Plan(
        status={"revision": "r1"},
        actions=(
            Create(object=child("ConfigMap", "c")),
            Apply(object=child("Service", "s")),
            Delete(object=snapshot.jobs[0]),
        ),
        events=(EVENT,),
    )
    assert await applier(kube).apply(snapshot, plan, NOW) == 4
    assert [call[:2] for call in kube.calls] == [
        ("status", "FineTuneJob"),
        ("create", "ConfigMap"),
        ("apply", "Service"),
        ("delete Foreground", "Job"),
        ("create", "Event"),
    ]


async def test_nothing_follows_a_status_that_somebody_was_faster_than() -> None:
    kube = MemoryKube(job())
    snapshot = await look(kube)
    kube.touch("FineTuneJob", "a", "demo", spec={"suspend": True})
    plan = Plan(status={"revision": "r1"}, actions=(Create(object=child("Job", "j")),))
    with pytest.raises(Conflict):
        await applier(kube).apply(snapshot, plan, NOW)
    assert ("Job", "a", "j") not in kube.objects


async def test_the_actions_after_one_that_failed_are_left_for_the_next_look() -> None:
    kube = MemoryKube(job())

    def fault(verb: str, kind: str, name: str) -> OperatorError | None:
        return Transient("503") if name == "second" else None

    kube.fault = fault
    actions = tuple(
        Create(object=child("ConfigMap", name)) for name in ("first", "second", "third")
    )
    with pytest.raises(Transient):
        await applier(kube).apply(await look(kube), Plan(status={}, actions=actions), NOW)
    assert {name for kind, _, name in kube.objects if kind == "ConfigMap"} == {"first"}


async def test_a_status_that_says_the_same_is_not_written() -> None:
    kube = MemoryKube(job(revision="r1", serving={"model": None}))
    plan = Plan(status={"revision": "r1", "serving": {}, "endpoint": None}, events=(EVENT,))
    assert await applier(kube).apply(await look(kube), plan, NOW) == 0
    assert kube.calls == []


async def test_what_was_created_before_and_is_ours_is_success() -> None:
    kube = MemoryKube(job(), child("Job", "j"))
    plan = Plan(status={}, actions=(Create(object=child("Job", "j")),))
    assert await applier(kube).apply(await look(kube), plan, NOW) == 0


@pytest.mark.parametrize("owner", [None, "uid-of-an-earlier-demo"])
@pytest.mark.parametrize("action", [Create, Apply])
async def test_what_is_not_ours_is_left_alone(owner: str | None, action: Any) -> None:
    foreign = child("Service", "s", owner=owner, spec={"theirs": True})
    kube = MemoryKube(job(), foreign)
    before = dict(kube.objects["Service", "a", "s"])
    plan = Plan(status={}, actions=(action(object=child("Service", "s", spec={})),))
    with pytest.raises(NameConflict, match="Service s exists and is not this job's"):
        await applier(kube).apply(await look(kube), plan, NOW)
    assert kube.objects["Service", "a", "s"] == before


async def test_a_foreign_object_without_our_label_is_found_before_it_is_taken_over() -> None:
    foreign = child("Service", "s", owner=None)
    del foreign["metadata"]["labels"]
    kube = MemoryKube(job(), foreign)
    snapshot = await look(kube)
    assert snapshot.services == ()
    with pytest.raises(NameConflict):
        await applier(kube).apply(
            snapshot, Plan(status={}, actions=(Apply(object=child("Service", "s")),)), NOW
        )


async def test_what_is_not_ours_is_not_deleted() -> None:
    kube = MemoryKube(job(), child("Pod", "p", owner=None))
    snapshot = await look(kube)
    with pytest.raises(NameConflict):
        await applier(kube).apply(
            snapshot, Plan(status={}, actions=(Delete(object=snapshot.pods[0]),)), NOW
        )


async def test_a_conflict_that_is_not_about_the_name_is_one() -> None:
    kube = MemoryKube(job())
    kube.fault = lambda verb, kind, name: Conflict("409 the quota changed meanwhile")
    plan = Plan(status={}, actions=(Create(object=child("Job", "j")),))
    with pytest.raises(Conflict):
        await applier(kube).apply(await look(kube), plan, NOW)


async def test_an_apply_is_sent_once_and_again_when_the_object_or_the_intent_changed() -> None:
    kube = MemoryKube(job())
    subject = applier(kube)

    async def apply(intent: dict[str, Any]) -> int:
        plan = Plan(status={}, actions=(Apply(object=child("Service", "s", spec=intent)),))
        await subject.apply(await look(kube), plan, NOW)
        return sum(call[0] == "apply" for call in kube.calls)

    assert await apply({"port": 1}) == 1
    assert await apply({"port": 1}) == 1
    assert await apply({"port": 2}) == 2
    kube.touch("Service", "a", "s", spec={"port": 3})
    assert await apply({"port": 2}) == 3
    assert await apply({"port": 2}) == 3
    assert kube.objects["Service", "a", "s"]["spec"] == {"port": 2}


async def test_what_others_did_to_a_child_is_told_once_and_what_we_did_is_not() -> None:
    kube = MemoryKube(job())
    subject = applier(kube)

    async def do(*actions: Any) -> list[str]:
        await subject.apply(await look(kube), Plan(status={}, actions=actions), NOW)
        return [
            each["note"] for (kind, *_), each in sorted(kube.objects.items()) if kind == "Event"
        ]

    wanted = Apply(object=child("Deployment", "d", spec={"replicas": 1}))
    other = Apply(object=child("Deployment", "d", spec={"replicas": 2}))
    assert await do(wanted) == []
    assert await do(other) == []
    assert await do(wanted) == []
    kube.touch("Deployment", "a", "d", spec={"replicas": 7})
    changed = "Deployment d was changed by somebody else; it is put right"
    assert await do(wanted) == [changed]
    assert await do(wanted) == [changed]
    present = kube.objects["Deployment", "a", "d"]
    assert await do(Delete(object=present)) == [changed]
    assert await do(wanted) == [changed]
    del kube.objects["Deployment", "a", "d"]
    deleted = "Deployment d was deleted by somebody else; it is made again"
    assert sorted(await do(wanted)) == [changed, deleted]


async def test_an_apply_is_refused_if_the_object_changed_since_the_look() -> None:
    kube = MemoryKube(job(), child("Service", "s"))
    snapshot = await look(kube)
    kube.touch("Service", "a", "s", spec={"port": 3})
    with pytest.raises(Conflict):
        await applier(kube).apply(
            snapshot, Plan(status={}, actions=(Apply(object=child("Service", "s")),)), NOW
        )


async def test_a_look_at_a_job_that_is_gone_writes_nothing() -> None:
    kube = MemoryKube(job())
    snapshot = await look(kube)
    gone = replace(
        snapshot, job={**snapshot.job, "metadata": {**snapshot.job["metadata"], "name": "other"}}
    )
    with pytest.raises(Transient):
        await applier(kube).apply(gone, Plan(status={"revision": "r"}), NOW)
    assert kube.objects["FineTuneJob", "a", "demo"]["status"] == {}


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(VALUES)
def test_a_normal_status_is_its_own_normal_form(value: Any) -> None:
    assert normal(normal(value)) == normal(value)
