"""A reconciler and a controller over the in-memory API server, with recorded delays."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.fakes.kube_client import MemoryKube, child
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import Images, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.confirmation import ALL_KINDS
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.kube.errors import OperatorError
from finetune_operator.kube.recorder import Recorder
from finetune_operator.snapshot.reader import Reader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.telemetry.job_metrics import JobMetrics
from finetune_operator.types import Create, Plan, Snapshot
from finetune_operator.workqueue.workqueue import WorkQueue

KEY = ("a", "demo")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = Settings(images=Images(trainer="t", serving="s", operator="o"))


def condition(reason: str) -> dict[str, str]:
    return {"type": "Ready", "status": "False", "reason": reason}


class StubPlanner:
    """Plans one ConfigMap; ``failure`` is raised instead."""

    failure: Exception | None = None
    requeue_after: float | None = 15.0
    step = 1

    def plan(self, snapshot: Snapshot, *, now: datetime) -> Plan:
        if self.failure is not None:
            raise self.failure
        return Plan(
            status={"step": self.step, "conditions": [condition("Preparing")]},
            actions=() if snapshot.configmaps else (Create(object=child("ConfigMap", "c")),),
            requeue_after=self.requeue_after,
        )

    def report(self, snapshot: Snapshot, *, reason: Reason, message: str, now: datetime) -> Plan:
        return Plan(status={**snapshot.job["status"], "conditions": [condition(reason)]})


class Rig:
    """A controller whose delays are recorded in ``delays`` and never end."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.kube, self.planner = MemoryKube(*objects), StubPlanner()
        self.delays: list[float] = []
        self.metrics = FakePodMetrics()
        self.reconciler = Reconciler(
            reader=Reader(
                kube=self.kube,
                store=ObjectStore(),
                metrics=self.metrics,
                settings=CONFIG,
                clock=lambda: NOW,
            ),
            executor=PlanExecutor(kube=self.kube, recorder=Recorder(self.kube, instance="pod")),
            planner=self.planner,
            clock=lambda: NOW,
            job_metrics=JobMetrics(),
        )
        self.controller = Controller(
            reconciler=self.reconciler, queue=WorkQueue("test", call_later=self._delay)
        )

    def _delay(self, seconds: float, callback: Callable[[], None]) -> "Rig":
        self.delays.append(seconds)
        return self

    def cancel(self) -> None:
        """Accept the cancellation of a delay by the queue."""

    async def reconcile(self) -> str:
        """Reconcile once with a full read; return the result."""
        self.reconciler.distrust(KEY, ALL_KINDS)
        return await self.reconcile_cached()

    async def reconcile_cached(self) -> str:
        """Reconcile once with the objects in the store; return the result."""
        self.reconciler.changed(KEY, "Pod", 0)
        return await self.process()

    async def process(self) -> str:
        """Process the key, which reconciles only if that is due; return the result."""
        self.controller.queue.add(KEY)
        assert self.controller.queue.pop() == KEY
        try:
            return await self.controller.process(KEY)
        finally:
            self.controller.queue.done(KEY)

    def reject(self, error: OperatorError | None) -> None:
        """Raise the error for writes of ConfigMaps."""
        self.kube.fault = lambda verb, kind, name: error if kind == "ConfigMap" else None

    def reason(self) -> str:
        status = self.kube.objects["FineTuneJob", "a", "demo"]["status"]
        return str(status["conditions"][0]["reason"])

    def status_writes(self) -> int:
        return sum(verb == "status" for verb, *_ in self.kube.calls)
