"""Reads, writes, log lines and stored state of a reconcile."""

from typing import Any

import pytest
from tests.fakes.kube_client import child, job
from tests.unit.operator.controller.rig import CONFIG, KEY, NOW, Rig

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.actions import Apply, Create
from finetune_operator.controller.reconciler import MOST_NEWS
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.objects import naming, status_view
from finetune_operator.snapshot.store import version_of
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import Plan, Snapshot


@pytest.fixture
def rig() -> Rig:
    return Rig(job())


def planned(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[Snapshot]:
    """Return the snapshots for which plans are made from now on."""
    plans, plan = [], rig.planner.plan

    def recorded(snapshot: Snapshot, **how: Any) -> Plan:
        plans.append(snapshot)
        return plan(snapshot, **how)

    monkeypatch.setattr(rig.planner, "plan", recorded)
    return plans


async def test_only_changes_are_logged_at_info(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "finetune_operator.controller")
    await rig.reconcile()
    assert [record.message for record in caplog.records] == ["reconciled"]
    caplog.clear()
    rig.planner.step = 2
    await rig.reconcile()
    assert (rig.status_writes(), caplog.records) == (2, [])


async def test_own_writes_are_observed_without_a_read(rig: Rig) -> None:
    await rig.reconcile()
    reads = rig.kube.reads
    await rig.reconcile_cached()
    assert rig.kube.reads == reads
    await rig.reconcile_cached()
    assert rig.kube.calls.count(("create", "ConfigMap", "c")) == 1


async def test_an_object_that_the_watches_do_not_report_is_neither_replaced_nor_created_again(
    rig: Rig,
) -> None:
    hidden = child("ConfigMap", "c")
    del hidden["metadata"]["labels"][naming.MANAGER]
    stored = rig.kube._store(hidden)
    assert await rig.process() == "error"
    assert rig.reason() == Reason.CONFIGURATION_CHANGED
    for _ in range(2):
        calls = len(rig.kube.calls)
        assert await rig.process() == "error"
        assert rig.kube.calls[calls:] == [("create", "ConfigMap", "c")]
    assert rig.kube.objects["ConfigMap", "a", "c"] == stored
    assert not rig.store.children(KEY)["configmaps"]
    assert min(rig.delays) >= delays.POLL


async def test_a_plan_without_a_status_write_is_confirmed_by_reading_the_job(rig: Rig) -> None:
    """The ConfigMap and the job were deleted, but only the first event has arrived."""
    await rig.reconcile()
    await rig.reconcile_cached()
    gone = rig.kube.objects.pop(("ConfigMap", "a", "c"))
    del rig.kube.objects["FineTuneJob", "a", "demo"]
    rig.store.remove(gone)
    rig.reconciler.changed(KEY, "ConfigMap", 99)
    before = list(rig.kube.calls)
    assert await rig.process() == "success"
    assert rig.kube.calls == before


async def test_a_live_read_without_news_confirms_the_plan_without_another(
    rig: Rig, monkeypatch: Any
) -> None:
    await rig.reconcile()
    await rig.reconcile_cached()
    rig.store.remove(rig.kube.objects.pop(("ConfigMap", "a", "c")))
    rig.reconciler.changed(KEY, "ConfigMap", 99)
    plans = planned(rig, monkeypatch)
    reads = rig.kube.reads
    await rig.process()
    assert (rig.kube.reads - reads, len(plans)) == (1, 1), "the job was read again"
    assert ("ConfigMap", "a", "c") in rig.kube.objects


async def test_a_conflict_or_an_error_is_followed_by_a_live_read(rig: Rig) -> None:
    await rig.reconcile()
    rig.kube.touch("FineTuneJob", "a", "demo", status={"changed": "elsewhere"})
    rig.planner.step = 2
    reads = rig.kube.reads
    assert await rig.reconcile_cached() == "requeue", "the store has an older version"
    assert rig.kube.reads == reads
    assert await rig.reconcile_cached() == "requeue_after"
    assert rig.kube.reads == reads + 9
    assert rig.kube.objects["FineTuneJob", "a", "demo"]["status"]["step"] == 2


async def test_a_second_reconcile_writes_nothing(rig: Rig) -> None:
    await rig.reconcile()
    before = list(rig.kube.calls)
    await rig.reconcile()
    assert rig.kube.calls == before


async def test_the_events_of_own_writes_are_no_news(rig: Rig) -> None:
    """Whether they arrive before the response or after it."""
    store = rig.store
    await rig.reconcile()
    for kind, name in (("FineTuneJob", "demo"), ("ConfigMap", "c")):
        assert store.put(rig.kube.objects[kind, "a", name]) == ()
    memory = rig.reconciler.memories[KEY]
    rig.planner.step = 2

    def fault(verb: str, kind: str, name: str) -> None:
        newest = max(map(version_of, rig.kube.objects.values()))
        memory.news |= {(kind, newest + 1)}

    rig.kube.fault = fault
    await rig.reconcile_cached()
    assert memory.news == set()


async def test_an_own_write_causes_no_plan_before_the_next_reconcile_is_due(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watch event queues the job."""
    await rig.reconcile()
    plans = planned(rig, monkeypatch)
    rig.delays.clear()
    assert await rig.process() == "requeue_after"
    assert rig.delays == [pytest.approx(delays.CREATED, rel=0.11)]
    assert plans == []
    rig.reconciler.changed(KEY, "Pod", 99)
    await rig.process()
    assert len(plans) == 1


async def test_the_record_of_changes_is_limited(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user can change objects of a job thousands of times between two reconciles."""
    await rig.reconcile()
    for version in range(2 * MOST_NEWS):
        rig.reconciler.changed(KEY, "Pod", version)
    assert len(rig.reconciler.memories[KEY].news) == MOST_NEWS
    plans = planned(rig, monkeypatch)
    await rig.process()
    assert len(plans) == 1


async def test_a_recreated_job_inherits_nothing(rig: Rig) -> None:
    rig.reject(Terminal("exceeded quota: gpu", reason=Reason.QUOTA_EXCEEDED))
    await rig.reconcile()
    earlier = rig.reconciler.memories[KEY]
    assert earlier.rejection is not None
    again = job()
    again["metadata"] |= {"uid": "uid-of-the-second", "resourceVersion": "99"}
    rig.kube.objects["FineTuneJob", "a", "demo"] = again
    rig.reject(None)
    await rig.reconcile()
    assert rig.reconciler.memories[KEY] is not earlier
    assert rig.reconciler.memories[KEY].uid == "uid-of-the-second"
    assert rig.reason() == "Preparing"


async def test_forgetting_a_job_removes_its_record_and_its_metrics(rig: Rig) -> None:
    await rig.reconcile()
    (jobs,) = rig.job_metrics.collect()
    assert [sample.value for sample in jobs.samples] == [1]
    rig.reconciler.forget_all()
    assert rig.reconciler.memories == {}
    (jobs,) = rig.job_metrics.collect()
    assert jobs.samples == []


async def test_a_written_status_counts_the_attempts_that_it_ends(rig: Rig) -> None:
    """As finetune_stage_outcomes_total, also if an action fails after the status was written."""
    labels = {"job_namespace": "a", "stage": "merge", "outcome": "Failed", "reason": "OutOfMemory"}
    attempt = {"stage": "merge", "attempt": 1, "outcome": "Failed", "reason": "OutOfMemory"}
    status = {"revisions": [{"revision": "r1", "stages": [attempt]}]}

    def count() -> float:
        return REGISTRY.get_sample_value("finetune_stage_outcomes_total", labels) or 0.0

    planned = Plan(status=status, actions=(Create(object=child("ConfigMap", "c")),))
    rig.planner.plan = lambda *_, **__: planned  # type: ignore[method-assign]
    rig.reject(Transient("down"))
    start = count()
    for _ in range(2):
        await rig.reconcile()
        assert count() == start + 1


async def test_an_apply_is_remembered_for_its_job(rig: Rig, monkeypatch: Any) -> None:
    """The same apply is no write, so it needs no confirmation and no request."""

    def plan(snapshot: Snapshot, *, now: object) -> Plan:
        assert (snapshot.settings, now) == (CONFIG, NOW)
        service = Apply(object=child("Service", "s", spec={"port": 1}))
        return Plan(status={"conditions": []}, actions=(service,), requeue_after=15.0)

    monkeypatch.setattr(rig.planner, "plan", plan)
    await rig.reconcile()
    assert [*rig.reconciler.memories[KEY].applied] == [("Service", "s")]
    await rig.reconcile_cached()
    reads = rig.kube.reads
    await rig.reconcile_cached()
    assert rig.kube.reads == reads
    assert sum(call[0] == "apply" for call in rig.kube.calls) == 1
    assert (
        status_view.of_job(rig.kube.objects["FineTuneJob", "a", "demo"]).ready_reason == "Unknown"
    )


@pytest.mark.parametrize("exists", [False, True])
async def test_the_planner_knows_the_jobs_that_this_process_created(
    rig: Rig, monkeypatch: Any, *, exists: bool
) -> None:
    """Or would have created: a process that ended before this one created it."""
    body = child("Job", "j", spec={"backoffLimit": 1})
    if exists:
        await rig.kube.create(body)
    known: list[tuple[int, int]] = []

    def plan(snapshot: Snapshot, *, now: object) -> Plan:
        known.append((len(snapshot.jobs), len(snapshot.created)))
        assert snapshot.created.keys() <= {each["metadata"]["uid"] for each in snapshot.jobs}
        actions = () if snapshot.created else (Create(object=body),)
        return Plan(status={"conditions": []}, actions=actions, requeue_after=15.0)

    monkeypatch.setattr(rig.planner, "plan", plan)
    await rig.reconcile()
    assert rig.delays[-1] < 6, "the uid is recorded before the next poll"
    await rig.reconcile()
    assert known[0] == (int(exists), 0)
    assert known[-1] == (1, 1)
    # Another process, and another Job of the same name.
    del rig.kube.objects["Job", "a", "j"]
    await rig.kube.create(body)
    await rig.reconcile()
    assert known[-1] == (1, 0)


async def test_the_planner_knows_a_job_of_other_content(rig: Rig, monkeypatch: Any) -> None:
    """It is reported only if the planner wants to create it nevertheless."""
    body = child("Job", "j", spec={"backoffLimit": 1})
    await rig.kube.create(child("Job", "j", spec={"backoffLimit": 2}))
    known: list[list[bool]] = []

    def plan(snapshot: Snapshot, *, now: object) -> Plan:
        known.append([*snapshot.created.values()])
        return Plan(status={"conditions": []}, actions=(Create(object=body),))

    monkeypatch.setattr(rig.planner, "plan", plan)
    assert await rig.process() == "requeue"
    assert not any(known)
    assert await rig.process() == "error"
    assert known[-1] == [False]
    assert rig.reason() == Reason.CONFIGURATION_CHANGED


async def test_a_plan_that_always_lacks_something_is_executed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed = 0

    async def complete(*_: Any) -> bool:
        nonlocal completed
        completed += 1
        assert completed < 100, "the reconcile never ends"
        return True

    monkeypatch.setattr(type(rig.reconciler.reader), "complete", complete)
    await rig.reconcile()
    assert rig.status_writes() == 1
