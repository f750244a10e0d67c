"""The result of a reconcile determines the next one."""

import asyncio
from typing import Any

import pytest
from tests.fakes.kube_client import child, job
from tests.unit.operator.controller.rig import KEY, Rig

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.actions import Apply, Create, Patch
from finetune_operator.controller import controller as module
from finetune_operator.controller.controller import (
    Controller,
)
from finetune_operator.health import Health
from finetune_operator.kube.errors import Conflict, Terminal, Transient
from finetune_operator.types import Plan


@pytest.fixture
def rig() -> Rig:
    return Rig(job())


async def test_success_requeues_after_the_time_of_the_plan(rig: Rig) -> None:
    await rig.reconcile()
    rig.delays.clear()
    assert await rig.reconcile() == "requeue_after"
    assert rig.delays == [pytest.approx(15, rel=0.05)]


async def test_a_creation_is_followed_by_another_reconcile_once_pods_have_started(rig: Rig) -> None:
    assert await rig.reconcile() == "requeue_after"
    assert ("ConfigMap", "a", "c") in rig.kube.objects
    assert rig.delays == [pytest.approx(delays.CREATED, rel=0.05)]


@pytest.mark.parametrize("action", [Patch, Apply])
async def test_the_change_of_an_object_that_existed_is_followed_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, action: type[Patch | Apply]
) -> None:
    service = await rig.kube.create(child("Service", "s", spec={"selector": {"build": "old"}}))
    spec = {"selector": {"build": "new"}}
    applied = Apply(object=child("Service", "s", spec=spec))
    change = applied if action is Apply else Patch(object=service, changes={"spec": spec})
    plan = Plan(status={"conditions": []}, actions=(change,), requeue_after=15.0)
    monkeypatch.setattr(rig.planner, "plan", lambda *_, **__: plan)
    assert await rig.reconcile() == "requeue_after"
    assert rig.delays == [pytest.approx(delays.FOLLOW_UP, rel=0.05)]


@pytest.mark.parametrize(
    ("kind", "urgent", "seconds"),
    [
        ("Pod", False, delays.SLOW_SETTLE),
        ("Pod", True, delays.SETTLE),
        ("PersistentVolumeClaim", False, delays.SLOW_SETTLE),
        ("Job", False, delays.SETTLE),
        ("Deployment", False, delays.SLOW_SETTLE),
        ("Deployment", True, delays.SETTLE),
    ],
)
async def test_the_start_of_a_pod_waits_for_related_events(
    rig: Rig, kind: str, urgent: bool, seconds: float
) -> None:
    await rig.reconcile()
    running = asyncio.create_task(rig.controller.run())
    await asyncio.sleep(0)
    rig.controller.queue.clear()
    rig.delays.clear()
    rig.controller.notify(KEY, kind, 1, urgent)
    assert rig.delays == [seconds]
    await rig.controller.stop()
    await running


async def test_a_job_at_rest_is_not_requeued(rig: Rig) -> None:
    rig.planner.requeue_after = None
    assert await rig.reconcile() == "success"
    assert rig.delays == []
    assert KEY in rig.reconciler.memories


async def test_a_deleted_job_is_forgotten_and_not_requeued(rig: Rig) -> None:
    await rig.reconcile()
    rig.delays.clear()
    del rig.kube.objects["FineTuneJob", "a", "demo"]
    assert await rig.reconcile() == "success"
    assert rig.delays == []
    assert rig.reconciler.memories == {}


async def test_a_conflict_requeues_at_once(rig: Rig) -> None:
    rig.reject(Conflict("409"))
    assert await rig.reconcile() == "requeue"
    assert rig.delays == []
    assert rig.controller.queue.pop() == KEY


async def test_errors_back_off_until_a_success(rig: Rig) -> None:
    rig.reject(Transient("503"))
    assert [await rig.reconcile() for _ in range(3)] == ["error"] * 3
    assert rig.delays == [0.005, 0.01, 0.02]
    rig.reject(None)
    await rig.reconcile()
    rig.delays.clear()
    rig.planner.failure = RuntimeError("a bug")
    await rig.reconcile()
    assert rig.delays == [0.005]


async def test_retry_after_of_the_server_is_respected(rig: Rig) -> None:
    rig.reject(Transient("429", retry_after=7))
    await rig.reconcile()
    assert rig.delays == [7]


async def test_an_exception_of_the_planner_is_an_error(rig: Rig) -> None:
    rig.planner.failure = KeyError("metadata")
    assert await rig.reconcile() == "error"


async def test_a_reconcile_that_hangs_times_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.01)
    never = asyncio.Event()

    async def hangs(*_: Any, **__: Any) -> None:
        await never.wait()

    monkeypatch.setattr(rig.kube, "get", hangs)
    assert await rig.reconcile() == "error"


async def test_a_rejected_write_is_reported_once_and_retried_slowly(rig: Rig) -> None:
    rig.reject(Terminal("exceeded quota: gpu", reason=Reason.QUOTA_EXCEEDED))
    assert await rig.reconcile() == "error"
    assert rig.reason() == "QuotaExceeded"
    assert rig.kube.objects["FineTuneJob", "a", "demo"]["status"]["step"] == 1
    assert rig.delays == [30]
    before = rig.status_writes()
    await rig.reconcile()
    await rig.reconcile()
    assert rig.status_writes() == before
    assert {(each or {}).get("kind") for each in rig.planner.rejected} == {"ConfigMap"}


async def test_planned_conditions_return_after_the_write_succeeded(rig: Rig) -> None:
    rig.reject(Terminal("exceeded quota: gpu", reason=Reason.QUOTA_EXCEEDED))
    await rig.reconcile()
    rig.reject(None)
    await rig.reconcile()
    assert rig.controller.queue.pop() == KEY
    rig.controller.queue.done(KEY)
    await rig.reconcile()
    assert rig.reason() == "Preparing"


async def test_workers_process_keys_until_stop(rig: Rig) -> None:
    created = asyncio.Event()

    def fault(verb: str, kind: str, name: str) -> None:
        if kind == "ConfigMap":
            created.set()

    rig.kube.fault = fault
    running = asyncio.create_task(rig.controller.run())
    rig.controller.queue.add(KEY)
    await asyncio.wait_for(created.wait(), 5)
    assert Health([rig.running], ()).failure_reason() is None
    await rig.controller.stop()
    await asyncio.wait_for(running, 5)
    assert Health([rig.running], ()).failure_reason() is None
    assert rig.reconciler.memories == {}


async def test_only_the_leader_enqueues_keys(rig: Rig) -> None:
    rig.controller.recheck(KEY)
    rig.controller.notify(KEY, "FineTuneJob", 1, False)
    assert rig.controller.queue.pop() is None
    running = asyncio.create_task(rig.controller.run())
    await asyncio.sleep(0)
    rig.controller.recheck(KEY)
    assert rig.controller.queue.pop() == KEY
    rig.controller.queue.done(KEY)
    await rig.controller.stop()
    await running


async def test_another_value_of_a_pod_wakes_its_job(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controller, "stopped", False)
    await rig.reconcile()
    rig.controller.queue.clear()
    for urgent in (False, True):
        rig.controller.wake(KEY, urgent=urgent)
        assert rig.controller.queue.pop() == KEY
        rig.controller.queue.done(KEY)


SERVING = {"conditions": [{"type": "Ready", "status": "True", "reason": "Serving"}]}


async def test_the_first_report_of_an_endpoint_waits_for_the_verification_result(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controller, "stopped", False)
    await rig.reconcile()
    rig.delays.clear()
    planned = Plan(status=SERVING, actions=(Create(object=child("ConfigMap", "later")),))
    rig.planner.plan = lambda *_, **__: planned  # type: ignore[method-assign]
    rig.metrics.due = 2.0
    await rig.reconcile()
    assert rig.reason() == "Preparing"
    assert rig.delays == [pytest.approx(2.0, rel=0.06)], "however long it has waited"
    assert ("ConfigMap", "a", "later") not in rig.kube.objects
    rig.metrics.due = 0.0
    rig.controller.wake(KEY, urgent=True)
    await rig.process()
    assert rig.reason() == "Serving"
    assert ("ConfigMap", "a", "later") in rig.kube.objects


async def test_an_endpoint_that_serves_does_not_wait_for_another_verification(rig: Rig) -> None:
    rig.planner.plan = lambda *_, **__: Plan(status=SERVING)  # type: ignore[method-assign]
    await rig.reconcile()
    planned = Plan(status=SERVING, actions=(Create(object=child("ConfigMap", "later")),))
    rig.planner.plan = lambda *_, **__: planned  # type: ignore[method-assign]
    rig.metrics.due = 2.0
    await rig.reconcile()
    assert ("ConfigMap", "a", "later") in rig.kube.objects


def test_a_stuck_worker_is_unhealthy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Controller, "alive", True)
    monkeypatch.setattr(rig.controller.queue, "longest", lambda: 301.0)
    expected = "a worker has been reconciling one FineTuneJob for 301 s"
    assert Health([rig.running], ()).failure_reason() == expected


async def test_an_error_outside_of_reconciles_ends_the_controller(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(key: tuple[str, str]) -> str:
        raise RuntimeError("a bug of the controller")

    monkeypatch.setattr(rig.controller, "process", fails)
    rig.controller.queue.add(KEY)
    with pytest.raises(RuntimeError, match="a bug of the controller"):
        await asyncio.wait_for(rig.controller.run(), 5)
