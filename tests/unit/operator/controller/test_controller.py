"""What follows from how a look ended."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube, child, job

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import Images, OperatorConfig
from finetune_operator.controller import controller as module
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.health import Health
from finetune_operator.kube.errors import Conflict, OperatorError, Terminal, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.types import Create, Plan, Snapshot

KEY = ("a", "demo")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig(images=Images(trainer="t", serving="s", operator="o"))


def condition(reason: str) -> dict[str, str]:
    return {"type": "Ready", "status": "False", "reason": reason}


class StubPlanner:
    """Wants one ConfigMap; ``failure`` is raised instead."""

    failure: Exception | None = None
    requeue_after: float | None = 15.0
    step = 1

    def plan(self, snapshot: Snapshot, *, config: OperatorConfig, now: datetime) -> Plan:
        if self.failure is not None:
            raise self.failure
        wanted = child("ConfigMap", "c")
        return Plan(
            status={"step": self.step, "conditions": [condition("Preparing")]},
            actions=() if snapshot.configmaps else (Create(object=wanted),),
            requeue_after=self.requeue_after,
        )

    def report(self, snapshot: Snapshot, *, reason: str, message: str, now: datetime) -> Plan:
        return Plan(status={**snapshot.job["status"], "conditions": [condition(reason)]})


async def no_scrape(address: str, port: int) -> str | None:
    return None


class Rig:
    """A controller whose delays are noted and not waited for."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.kube, self.planner = MemoryKube(*objects), StubPlanner()
        self.delays: list[float] = []
        recorder = Recorder(self.kube, instance="pod")
        self.controller = Controller(
            kube=self.kube,
            applier=PlanExecutor(kube=self.kube, recorder=recorder),
            config=CONFIG,
            planner=self.planner,
            scrape=no_scrape,
            clock=lambda: NOW,
            queue=WorkQueue("test", call_later=self._delay),
        )

    def _delay(self, seconds: float, callback: Callable[[], None]) -> "Rig":
        self.delays.append(seconds)
        return self

    def cancel(self) -> None:
        """The queue takes back the delay."""

    async def look(self) -> str:
        """Look once, at everything."""
        self.controller.views.forget(KEY)
        return await self.look_again()

    async def look_again(self) -> str:
        """Look once, at what is out of date."""
        self.controller.queue.add(KEY)
        key = self.controller.queue.pop()
        assert key == KEY
        try:
            return await self.controller.reconcile(KEY)
        finally:
            self.controller.queue.done(KEY)

    def refuse(self, error: OperatorError | None) -> None:
        self.kube.fault = lambda verb, kind, name: error if kind == "ConfigMap" else None

    def reason(self) -> str:
        status = self.kube.objects["FineTuneJob", "a", "demo"]["status"]
        return str(status["conditions"][0]["reason"])

    def status_writes(self) -> int:
        return sum(verb == "status" for verb, *_ in self.kube.calls)


@pytest.fixture
def rig() -> Rig:
    return Rig(job())


async def test_a_job_is_looked_at_again_when_the_plan_says(rig: Rig) -> None:
    assert await rig.look() == "requeue_after"
    assert ("ConfigMap", "a", "c") in rig.kube.objects
    assert rig.delays == [module.SETTLE_SECONDS]
    rig.delays.clear()
    assert await rig.look() == "requeue_after"
    assert rig.delays == [pytest.approx(15, rel=0.05)]


async def test_progress_is_no_line_of_the_log_but_what_was_done_is(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "finetune_operator.controller.controller")
    await rig.look()
    assert [record.message for record in caplog.records] == ["reconciled"]
    caplog.clear()
    rig.planner.step = 2
    await rig.look()
    assert (rig.status_writes(), caplog.records) == (2, [])


async def test_what_a_look_did_is_seen_at_once_and_without_a_read(rig: Rig) -> None:
    await rig.look()
    reads = rig.kube.reads
    await rig.look_again()
    assert rig.kube.reads == reads
    await rig.look_again()
    assert rig.kube.calls.count(("create", "ConfigMap", "c")) == 1


async def test_what_is_known_is_not_acted_upon_before_it_is_read_again(rig: Rig) -> None:
    """Somebody deleted the ConfigMap, and no event told: a job that is gone is not helped."""
    await rig.look()
    await rig.look_again()
    rig.controller.views.told(KEY, "ConfigMap", None)
    del rig.kube.objects["ConfigMap", "a", "c"]
    del rig.kube.objects["FineTuneJob", "a", "demo"]
    before = list(rig.kube.calls)
    assert await rig.look_again() == "success"
    assert rig.kube.calls == before


async def test_a_job_at_rest_is_left_to_events_and_the_resync(rig: Rig) -> None:
    rig.planner.requeue_after = None
    assert await rig.look() == "success"
    assert rig.delays == []
    assert KEY in rig.controller.snapshot


async def test_a_second_look_writes_nothing(rig: Rig) -> None:
    await rig.look()
    before = list(rig.kube.calls)
    await rig.look()
    assert rig.kube.calls == before


async def test_a_job_that_is_gone_is_forgotten(rig: Rig) -> None:
    await rig.look()
    rig.delays.clear()
    del rig.kube.objects["FineTuneJob", "a", "demo"]
    assert await rig.look() == "success"
    assert rig.delays == []


async def test_a_conflict_means_to_look_again_at_once(rig: Rig) -> None:
    rig.refuse(Conflict("409"))
    assert await rig.look() == "requeue"
    assert rig.delays == []
    assert rig.controller.queue.pop() == KEY


async def test_failures_are_repeated_later_and_later_until_a_success(rig: Rig) -> None:
    rig.refuse(Transient("503"))
    assert [await rig.look() for _ in range(3)] == ["error"] * 3
    assert rig.delays == [0.005, 0.01, 0.02]
    rig.refuse(None)
    await rig.look()
    rig.delays.clear()
    rig.planner.failure = RuntimeError("a defect")
    await rig.look()
    assert rig.delays == [0.005]


async def test_a_server_that_asks_for_time_is_given_it(rig: Rig) -> None:
    rig.refuse(Transient("429", retry_after=7))
    await rig.look()
    assert rig.delays == [7]


async def test_a_defect_of_the_planner_is_an_error_of_its_key_alone(rig: Rig) -> None:
    rig.planner.failure = KeyError("metadata")
    assert await rig.look() == "error"


async def test_a_look_that_hangs_is_cut_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    never = asyncio.Event()

    async def hangs(*_: Any, **__: Any) -> None:
        await never.wait()

    monkeypatch.setattr(rig.kube, "get", hangs)
    assert await rig.look() == "error"


async def test_a_refusal_is_reported_once_and_tried_again_slowly(rig: Rig) -> None:
    rig.refuse(Terminal("exceeded quota: gpu", reason=Reason.QUOTA_EXCEEDED))
    assert await rig.look() == "error"
    assert rig.reason() == "QuotaExceeded"
    assert rig.kube.objects["FineTuneJob", "a", "demo"]["status"]["step"] == 1
    assert rig.delays == [30]
    before = rig.status_writes()
    await rig.look()
    await rig.look()
    assert rig.status_writes() == before


async def test_a_refusal_that_ends_is_unsaid(rig: Rig) -> None:
    rig.refuse(Terminal("exceeded quota: gpu", reason=Reason.QUOTA_EXCEEDED))
    await rig.look()
    rig.refuse(None)
    await rig.look()
    assert rig.controller.queue.pop() == KEY
    rig.controller.queue.done(KEY)
    await rig.look()
    assert rig.reason() == "Preparing"


async def test_the_workers_work_and_stop(rig: Rig) -> None:
    created = asyncio.Event()

    def fault(verb: str, kind: str, name: str) -> None:
        if kind == "ConfigMap":
            created.set()

    rig.kube.fault = fault
    running = asyncio.create_task(rig.controller.run())
    rig.controller.queue.add(KEY)
    await asyncio.wait_for(created.wait(), 5)
    assert Health(rig.controller).complaint() is None
    await rig.controller.stop()
    await asyncio.wait_for(running, 5)
    assert Health(rig.controller).complaint() is None


async def test_a_replica_that_stands_by_queues_nothing(rig: Rig) -> None:
    rig.controller.wake(KEY)
    assert rig.controller.queue.pop() is None
    running = asyncio.create_task(rig.controller.run())
    await asyncio.sleep(0)
    rig.controller.wake(KEY)
    assert rig.controller.queue.pop() == KEY
    rig.controller.queue.done(KEY)
    await rig.controller.stop()
    await running


def test_a_worker_that_is_stuck_is_complained_about(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controller, "alive", True)
    monkeypatch.setattr(rig.controller.queue, "longest", lambda: 301.0)
    assert Health(rig.controller).complaint() == "a worker has been at one job for 301 s"


async def test_a_worker_that_dies_ends_the_controller(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(key: tuple[str, str]) -> str:
        raise RuntimeError("a defect outside of any look")

    monkeypatch.setattr(rig.controller, "reconcile", dies)
    rig.controller.queue.add(KEY)
    with pytest.raises(RuntimeError, match="outside of any look"):
        await asyncio.wait_for(rig.controller.run(), 5)
