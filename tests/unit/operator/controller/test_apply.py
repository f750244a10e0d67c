"""Order and preconditions of the writes of a plan."""

import asyncio
import copy
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.apiserver import CONFIG, merge
from tests.fakes.kube_client import MemoryKube, child, job
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_operator.actions import INDEPENDENT_KINDS, Apply, Create, Delete, Patch, Scale
from finetune_operator.controller.apply import (
    AppliedVersions,
    PlanExecutor,
    needs_writes,
    writes_status,
)
from finetune_operator.kube.client import FIELD_MANAGER
from finetune_operator.kube.errors import Conflict, NameConflict, OperatorError, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects import naming
from finetune_operator.objects.contents import without_empty
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.reader import JobReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.types import Event, Plan, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(type="Normal", reason="Preparing", message="preparing")


async def read(kube: MemoryKube) -> Snapshot:
    live = LiveReader(kube=kube, store=ObjectStore())
    reader = JobReader(live=live, metrics=FakePodMetrics(), settings=CONFIG)
    snapshot = await reader.read(("a", "demo"), live=JOBS.kinds)
    assert snapshot is not None
    return snapshot


async def execute(
    kube: MemoryKube, snapshot: Snapshot, plan: Plan, applied: AppliedVersions | None = None
) -> int:
    """Execute a plan; return the number of writes."""
    executor = PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))
    return await executor.execute(snapshot, plan, NOW, applied={} if applied is None else applied)


async def test_status_is_written_first_and_actions_in_order() -> None:
    kube = MemoryKube(job(), child("Job", "old"))
    snapshot = await read(kube)
    plan = Plan(
        status={"revision": "r1"},
        actions=(
            Create(object=child("ConfigMap", "c")),
            Apply(object=child("Service", "s")),
            Delete(object=snapshot.jobs[0]),
        ),
        events=(EVENT,),
    )
    assert await execute(kube, snapshot, plan) == 4
    assert kube.calls[0] == ("status", "FineTuneJob", "demo")
    assert [call[:2] for call in kube.calls[1:] if call[1] != "Event"] == [
        ("create", "ConfigMap"),
        ("apply", "Service"),
        ("delete Foreground", "Job"),
    ]
    assert sum(call[:2] == ("create", "Event") for call in kube.calls) == 1


class SlowKube(MemoryKube):
    """Answers a create only after all creates of a number have been sent."""

    def __init__(self, *objects: dict[str, Any], together: int) -> None:
        super().__init__(*objects)
        self._sent = asyncio.Barrier(together)

    async def create(self, body: Any, *, fenced: bool = True) -> Any:
        if body["kind"] in INDEPENDENT_KINDS:
            await asyncio.wait_for(self._sent.wait(), 30)
        return await super().create(body)


async def test_independent_writes_are_sent_at_once_and_pods_follow_them() -> None:
    kube = SlowKube(job(), together=3)
    kinds = ("NetworkPolicy", "ConfigMap", "PersistentVolumeClaim")
    actions = tuple(Create(object=child(kind, "x")) for kind in (*kinds, "Job"))
    assert await execute(kube, await read(kube), Plan(status={}, actions=actions)) == 4
    assert {call[1] for call in kube.calls[:3]} == set(kinds)
    assert kube.calls[3][1] == "Job"


async def test_each_write_is_counted_logged_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deployment = child("Deployment", "d", spec={"replicas": 1})
    kube = MemoryKube(job(), child("Job", "old"), child("PersistentVolumeClaim", "v"), deployment)
    snapshot = await read(kube)
    actions = (
        Create(object=child("ConfigMap", "c")),
        Create(object=child("Job", "old")),
        Apply(object=child("Service", "s")),
        Patch(object=snapshot.volumes[0], changes={"spec": {"size": 2}, "metadata": {"a": "b"}}),
        Delete(object=snapshot.jobs[0], propagation="Background"),
        Scale(object=snapshot.deployments[0], replicas=3),
    )
    seen: list[tuple[str, str | None]] = []
    executor = PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))
    with caplog.at_level(logging.INFO, logger="finetune_operator.apply"):
        writes = await executor.execute(
            snapshot,
            Plan(status={"revision": "r1"}, actions=actions),
            NOW,
            applied={},
            on_write=lambda target, written: seen.append(
                (target["kind"], None if written is None else written["metadata"]["name"])
            ),
        )
    assert writes == 6
    assert seen == [
        ("FineTuneJob", "demo"),
        ("ConfigMap", "c"),
        ("Job", "old"),
        ("Service", "s"),
        ("PersistentVolumeClaim", "v"),
        ("Job", None),
        ("Deployment", None),
    ]
    logged = [(each.getMessage(), vars(each)["child"]) for each in caplog.records]
    assert logged == [
        ("created", "ConfigMap/c"),
        ("applied", "Service/s"),
        ("patched", "PersistentVolumeClaim/v"),
        ("deleted", "Job/old"),
        ("scaled", "Deployment/d"),
    ]
    assert vars(caplog.records[-1])["replicas"] == 3
    claim = kube.objects["PersistentVolumeClaim", "a", "v"]
    assert (claim["spec"], claim["metadata"]["a"]) == ({"size": 2}, "b")
    assert kube.objects["Deployment", "a", "d"]["spec"] == {"replicas": 3}
    assert ("Job", "a", "old") not in kube.objects


async def test_only_actions_that_would_change_something_need_writes() -> None:
    kube, applied = MemoryKube(job()), AppliedVersions()
    service = Apply(object=child("Service", "s"))
    plan = Plan(status={}, actions=(service,))
    assert not needs_writes(await read(kube), Plan(status={}), applied)
    assert needs_writes(await read(kube), plan, applied)
    await execute(kube, await read(kube), plan, applied)
    assert not needs_writes(await read(kube), plan, applied)
    both = Plan(status={}, actions=(service, Create(object=child("Job", "j"))))
    assert needs_writes(await read(kube), both, applied)
    stored = kube.objects["Service", "a", "s"]["metadata"]
    stored["ownerReferences"] = child("Service", "s", owner="other")["metadata"]["ownerReferences"]
    assert needs_writes(await read(kube), plan, applied), "another owner"


async def test_no_action_follows_a_conflict_of_the_status_write() -> None:
    kube = MemoryKube(job())
    snapshot = await read(kube)
    kube.touch("FineTuneJob", "a", "demo", spec={"suspend": True})
    plan = Plan(status={"revision": "r1"}, actions=(Create(object=child("Job", "j")),))
    with pytest.raises(Conflict):
        await execute(kube, snapshot, plan)
    assert ("Job", "a", "j") not in kube.objects


async def test_no_batch_follows_a_failed_action() -> None:
    """The other writes of its batch are sent, and the first error in order is raised."""
    kube = MemoryKube(job())

    def fault(verb: str, kind: str, name: str) -> OperatorError | None:
        return Transient(f"503 {name}") if name in ("second", "third") else None

    kube.fault = fault
    names = ("first", "second", "third", "fourth")
    actions = (
        *(Create(object=child("ConfigMap", name)) for name in names),
        Create(object=child("Job", "j")),
    )
    with pytest.raises(Transient, match="second"):
        await execute(kube, await read(kube), Plan(status={}, actions=actions))
    assert {name for kind, _, name in kube.objects if kind == "ConfigMap"} == {"first", "fourth"}
    assert ("Job", "a", "j") not in kube.objects


async def test_events_of_a_written_status_are_recorded_even_if_an_action_fails() -> None:
    kube = MemoryKube(job())
    kube.fault = lambda verb, kind, name: Transient("503") if kind == "Job" else None
    plan = Plan(status={"r": 1}, actions=(Create(object=child("Job", "j")),), events=(EVENT,))
    with pytest.raises(Transient):
        await execute(kube, await read(kube), plan)
    assert [kind for kind, *_ in kube.objects if kind == "Event"] == ["Event"]


async def test_an_unchanged_status_is_not_written() -> None:
    kube = MemoryKube(job(revision="r1", serving={"model": None}))
    plan = Plan(status={"revision": "r1", "serving": {}, "endpoint": None}, events=(EVENT,))
    assert await execute(kube, await read(kube), plan) == 0
    assert kube.calls == []


async def test_creating_an_owned_object_again_is_success() -> None:
    kube = MemoryKube(job(), child("Job", "j"))
    plan = Plan(status={}, actions=(Create(object=child("Job", "j")),))
    assert await execute(kube, await read(kube), plan) == 0


@pytest.mark.parametrize(
    "owner", [None, "uid-of-an-earlier-demo"], ids=["no owner", "earlier job of the name"]
)
@pytest.mark.parametrize("action", [Create, Apply])
async def test_objects_of_others_are_not_changed(owner: str | None, action: Any) -> None:
    foreign = child("Service", "s", owner=owner, spec={"theirs": True})
    kube = MemoryKube(job(), foreign)
    before = dict(kube.objects["Service", "a", "s"])
    plan = Plan(status={}, actions=(action(object=child("Service", "s", spec={})),))
    with pytest.raises(NameConflict, match="Service s exists and is not owned by this FineTuneJob"):
        await execute(kube, await read(kube), plan)
    assert kube.objects["Service", "a", "s"] == before


def earlier_claim(**labels: str) -> Any:
    claim = child("PersistentVolumeClaim", "v", owner=None)
    claim["metadata"]["labels"] |= {naming.JOB_UID: "uid-of-an-earlier-demo", **labels}
    return claim


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_volume_of_an_earlier_job_is_adopted_only_with_its_label(allowed: bool) -> None:
    labels = {naming.REUSE: naming.REUSE_DOWNLOADS} if allowed else {}
    kube = MemoryKube(job(), earlier_claim(**labels))
    snapshot = await read(kube)
    changes = {"metadata": {"labels": {naming.JOB_UID: "uid-of-demo"}}}
    plan = Plan(status={}, actions=(Patch(object=snapshot.volumes[0], changes=changes),))
    before = copy.deepcopy(kube.objects["PersistentVolumeClaim", "a", "v"])
    if allowed:
        assert await execute(kube, snapshot, plan) == 1
        after = kube.objects["PersistentVolumeClaim", "a", "v"]["metadata"]["labels"]
        assert after[naming.JOB_UID] == "uid-of-demo"
        return
    with pytest.raises(NameConflict):
        await execute(kube, snapshot, plan)
    assert kube.objects["PersistentVolumeClaim", "a", "v"] == before


async def test_an_adoptable_volume_is_not_deleted() -> None:
    kube = MemoryKube(job(), earlier_claim(**{naming.REUSE: naming.REUSE_DOWNLOADS}))
    snapshot = await read(kube)
    with pytest.raises(NameConflict):
        await execute(
            kube, snapshot, Plan(status={}, actions=(Delete(object=snapshot.volumes[0]),))
        )


async def test_the_conflict_of_a_volume_names_the_label_that_allows_its_use() -> None:
    kube = MemoryKube(job(), earlier_claim())
    create = Create(object=child("PersistentVolumeClaim", "v"))
    with pytest.raises(NameConflict, match=r"set its label finetune\.dev/reuse to downloads"):
        await execute(kube, await read(kube), Plan(status={}, actions=(create,)))


async def test_an_object_of_others_without_the_label_is_not_taken_over() -> None:
    foreign = child("Service", "s", owner=None)
    del foreign["metadata"]["labels"]
    kube = MemoryKube(job(), foreign)
    snapshot = await read(kube)
    assert snapshot.services == ()
    with pytest.raises(NameConflict):
        await execute(
            kube, snapshot, Plan(status={}, actions=(Apply(object=child("Service", "s")),))
        )


async def test_objects_of_others_are_not_deleted() -> None:
    kube = MemoryKube(job(), child("Pod", "p", owner=None))
    snapshot = await read(kube)
    with pytest.raises(NameConflict):
        await execute(kube, snapshot, Plan(status={}, actions=(Delete(object=snapshot.pods[0]),)))


async def test_a_409_for_another_cause_is_a_conflict() -> None:
    kube = MemoryKube(job())
    kube.fault = lambda verb, kind, name: Conflict("409 the quota changed meanwhile")
    plan = Plan(status={}, actions=(Create(object=child("Job", "j")),))
    with pytest.raises(Conflict):
        await execute(kube, await read(kube), plan)


async def test_an_apply_is_repeated_only_after_a_change() -> None:
    kube, applied = MemoryKube(job()), AppliedVersions()

    async def apply(spec: dict[str, Any]) -> int:
        plan = Plan(status={}, actions=(Apply(object=child("Service", "s", spec=spec)),))
        await execute(kube, await read(kube), plan, applied)
        return sum(call[0] == "apply" for call in kube.calls)

    assert await apply({"port": 1}) == 1
    assert await apply({"port": 1}) == 1
    assert await apply({"port": 2}) == 2
    kube.touch("Service", "a", "s", spec={"port": 3})
    assert await apply({"port": 2}) == 3
    assert await apply({"port": 2}) == 3
    assert kube.objects["Service", "a", "s"]["spec"] == {"port": 2}


async def test_an_apply_that_changes_nothing_is_no_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube, applied = MemoryKube(job(), child("Service", "s")), AppliedVersions()
    plan = Plan(status={}, actions=(Apply(object=child("Service", "s")),))
    with caplog.at_level(logging.INFO, logger="finetune_operator.apply"):
        assert await execute(kube, await read(kube), plan, applied) == 0, "it is sent once"
        assert await execute(kube, await read(kube), plan, applied) == 0, "it is not sent"
    assert [call[:2] for call in kube.calls] == [("apply", "Service")]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("old", "new", "written"),
    [
        ({"revision": "r1"}, {"revision": "r1", "endpoint": None}, False),
        ({"revision": "r1"}, {"revision": "r2"}, True),
        ({}, {"serving": {}}, False),
    ],
)
async def test_a_plan_writes_the_status_if_a_value_changes(
    old: dict[str, Any], new: dict[str, Any], written: bool
) -> None:
    snapshot = await read(MemoryKube(job(**old)))
    assert writes_status(snapshot, Plan(status=new)) is written


async def test_a_change_of_the_status_alone_causes_no_apply() -> None:
    kube, applied = MemoryKube(job()), AppliedVersions()
    body = child("Deployment", "d", spec={"replicas": 1})
    ours = body["metadata"]["labels"]
    body["metadata"]["labels"] = ours | {"app": "d"}

    async def applies() -> int:
        """Execute a plan that applies the object; return how often it was applied."""
        kube.calls.clear()
        plan = Plan(status={}, actions=(Apply(object=body),))
        await execute(kube, await read(kube), plan, applied)
        return sum(verb == "apply" for verb, *_ in kube.calls)

    def touch(metadata: dict[str, Any], **changes: Any) -> None:
        present = kube.objects["Deployment", "a", "d"]["metadata"]
        kube.touch("Deployment", "a", "d", metadata=present | metadata, **changes)

    assert await applies() == 1
    touch({"generation": 1})
    assert [await applies(), await applies()] == [1, 0], "a change of unknown extent"
    touch({}, status={"readyReplicas": 1})
    assert await applies() == 0
    changes: tuple[dict[str, Any], ...] = ({"generation": 2}, {"labels": ours})
    for change in changes:
        touch(change)
        assert await applies() == 1, change


async def test_drift_is_corrected_and_reported_once() -> None:
    """Our own changes and deletions are no drift."""
    kube, applied = MemoryKube(job()), AppliedVersions()

    async def events_after(*actions: Any) -> list[str]:
        await execute(kube, await read(kube), Plan(status={}, actions=actions), applied)
        return [
            each["note"] for (kind, *_), each in sorted(kube.objects.items()) if kind == "Event"
        ]

    one = Apply(object=child("Deployment", "d", spec={"replicas": 1}))
    two = Apply(object=child("Deployment", "d", spec={"replicas": 2}))
    assert await events_after(one) == []
    assert await events_after(two) == []
    assert await events_after(one) == []
    kube.touch("Deployment", "a", "d", spec={"replicas": 7})
    reverted = "Reverted changes made to Deployment d by another client."
    assert await events_after(one) == [reverted]
    assert await events_after(one) == [reverted]
    assert await events_after(Delete(object=kube.objects["Deployment", "a", "d"])) == [reverted]
    assert await events_after(one) == [reverted]
    del kube.objects["Deployment", "a", "d"]
    recreated = "Re-created Deployment d, which was deleted externally."
    assert sorted(await events_after(one)) == sorted([reverted, recreated])


@pytest.mark.parametrize(
    ("managers", "author"),
    [
        ([], "another client"),
        ([(FIELD_MANAGER, "f:spec", "3")], "another client"),
        ([("kubelet", "f:status", "3")], "another client"),
        ([("hpa", "f:spec", "1")], "field manager hpa"),
        (
            [("hpa", "f:spec", "2"), ("kubectl", "f:spec", "1"), (FIELD_MANAGER, "f:spec", "3")],
            "field manager hpa",
        ),
    ],
    ids=str,
)
async def test_drift_event_names_the_last_other_field_manager(
    managers: list[tuple[str, str, str]], author: str
) -> None:
    kube, applied = MemoryKube(job()), AppliedVersions()
    deployment = Apply(object=child("Deployment", "d", spec={"replicas": 1}))
    await execute(kube, await read(kube), Plan(status={}, actions=(deployment,)), applied)
    stored = kube.objects["Deployment", "a", "d"]["metadata"]
    fields = [
        {"manager": name, "fieldsV1": {part: {}}, "time": time} for name, part, time in managers
    ]
    metadata = {**stored, "managedFields": fields}
    kube.touch("Deployment", "a", "d", metadata=metadata, spec={"replicas": 7})
    await execute(kube, await read(kube), Plan(status={}, actions=(deployment,)), applied)
    events = [each for (kind, *_), each in kube.objects.items() if kind == "Event"]
    assert [(each["type"], each["reason"], each["note"]) for each in events] == [
        ("Warning", "DriftCorrected", f"Reverted changes made to Deployment d by {author}.")
    ]


async def test_a_patch_of_a_stale_version_is_a_conflict() -> None:
    kube = MemoryKube(job(), child("PersistentVolumeClaim", "v"))
    snapshot = await read(kube)
    kube.touch("PersistentVolumeClaim", "a", "v", spec={"size": 3})
    patch = Patch(object=snapshot.volumes[0], changes={"spec": {"size": 2}})
    with pytest.raises(Conflict):
        await execute(kube, snapshot, Plan(status={}, actions=(patch,)))


async def test_an_apply_to_a_stale_version_is_a_conflict() -> None:
    kube = MemoryKube(job(), child("Service", "s"))
    snapshot = await read(kube)
    kube.touch("Service", "a", "s", spec={"port": 3})
    with pytest.raises(Conflict):
        await execute(
            kube, snapshot, Plan(status={}, actions=(Apply(object=child("Service", "s")),))
        )


async def test_nothing_is_written_for_a_deleted_job() -> None:
    kube = MemoryKube(job())
    snapshot = await read(kube)
    gone = replace(
        snapshot, job={**snapshot.job, "metadata": {**snapshot.job["metadata"], "name": "other"}}
    )
    with pytest.raises(Transient):
        await execute(kube, gone, Plan(status={"revision": "r"}))
    assert kube.objects["FineTuneJob", "a", "demo"]["status"] == {}


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(VALUES)
def test_removing_empty_values_is_idempotent(value: Any) -> None:
    assert without_empty(without_empty(value)) == without_empty(value)


CHANGED_OWNERS: dict[str, Any] = {
    "no controller": lambda owner: [{**owner, "controller": False}],
    "another name": lambda owner: [{**owner, "name": "other"}],
    "another version": lambda owner: [{**owner, "apiVersion": "finetune.dev/v9"}],
    "another controller": lambda owner: [
        {**owner, "controller": False},
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x", "controller": True},
    ],
    "another owner": lambda owner: [
        owner,
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"},
    ],
}


@pytest.mark.parametrize("change", CHANGED_OWNERS.values(), ids=CHANGED_OWNERS)
@pytest.mark.parametrize("kind", ["Service", "Deployment", "NetworkPolicy"])
async def test_changed_owners_are_restored_with_the_object(change: Any, kind: str) -> None:
    """An object without its controller is still the job's, and stays not as it was changed."""
    kube, applied = MemoryKube(job()), AppliedVersions()
    desired = child(kind, "s", spec={"selector": {"app": "own"}})
    desired["metadata"]["generation"] = 1
    plan = Plan(status={}, actions=(Apply(object=desired),))
    await execute(kube, await read(kube), plan, applied)
    (owner,) = desired["metadata"]["ownerReferences"]
    stored = kube.objects[kind, "a", "s"]
    metadata = {**stored["metadata"], "ownerReferences": change(owner)}
    kube.touch(kind, "a", "s", metadata=metadata, spec={"selector": {"app": "evil"}})
    await execute(kube, await read(kube), plan, applied)
    stored = kube.objects[kind, "a", "s"]
    assert stored["metadata"]["ownerReferences"] == [owner]
    assert stored["spec"] == {"selector": {"app": "own"}}
    (event,) = (each for (of_kind, *_), each in kube.objects.items() if of_kind == "Event")
    assert event["reason"] == "DriftCorrected"
    writes = len(kube.calls)
    await execute(kube, await read(kube), plan, applied)
    assert len(kube.calls) == writes, "it is applied once"


async def test_values_of_other_clients_are_removed() -> None:
    """A server-side apply leaves them."""

    class Merging(MemoryKube):
        async def apply(self, body: Any) -> Any:
            existing = self.objects.get(self._key(body))
            if existing is None:
                return await super().apply(body)
            merged = copy.deepcopy(existing)
            merge(merged, body)
            return existing if merged == existing else self._store(merged)

    kube, applied = Merging(job()), AppliedVersions()
    desired = child("Deployment", "d", spec={"replicas": 1})
    plan = Plan(status={}, actions=(Apply(object=desired),))
    await execute(kube, await read(kube), plan, applied)
    kube.touch("Deployment", "a", "d", spec={"replicas": 1, "paused": True})
    await execute(kube, await read(kube), plan, applied)
    assert kube.objects["Deployment", "a", "d"]["spec"] == {"replicas": 1}
