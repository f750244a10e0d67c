"""A reconciler and a controller over the in-memory API server, with recorded delays."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.fakes.kube_client import MemoryKube, child
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Create
from finetune_operator.config import Images, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.running import RunningKind
from finetune_operator.kube.errors import OperatorError
from finetune_operator.kube.recorder import Recorder
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.reader import JobReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.telemetry.gpu_seconds import GpuSeconds
from finetune_operator.telemetry.job_metrics import JobMetrics
from finetune_operator.types import UNCONFIRMED, Confirmation, Object, Plan, Snapshot
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

    def __init__(self) -> None:
        self.rejected: list[Object | None] = []

    def plan(self, snapshot: Snapshot, *, now: datetime) -> Plan:
        if self.failure is not None:
            raise self.failure
        return Plan(
            status={"step": self.step, "conditions": [condition("Preparing")]},
            actions=() if snapshot.configmaps else (Create(object=child("ConfigMap", "c")),),
            requeue_after=self.requeue_after,
        )

    def confirmation(self, snapshot: Snapshot, plan: Plan) -> Confirmation:
        return UNCONFIRMED

    def report(
        self,
        snapshot: Snapshot,
        *,
        reason: Reason,
        message: str,
        now: datetime,
        planned: Object | None = None,
        rejected: Object | None = None,
    ) -> Plan:
        self.rejected.append(rejected)
        before = planned or snapshot.job["status"]
        return Plan(status={**before, "conditions": [condition(reason)]})


class Rig:
    """A controller whose delays are recorded in ``delays`` and never end."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.kube, self.planner = MemoryKube(*objects), StubPlanner()
        self.delays: list[float] = []
        self.metrics, self.job_metrics = FakePodMetrics(), JobMetrics(GpuSeconds())
        self.store = ObjectStore()
        self.reconciler = Reconciler(
            store=self.store,
            reader=JobReader(
                live=LiveReader(kube=self.kube, store=self.store),
                metrics=self.metrics,
                settings=CONFIG,
                clock=lambda: NOW,
            ),
            executor=PlanExecutor(kube=self.kube, recorder=Recorder(self.kube, instance="pod")),
            planner=self.planner,
            clock=lambda: NOW,
            telemetry=self.job_metrics,
        )
        self.controller = Controller(
            reconciler=self.reconciler, queue=WorkQueue("test", call_later=self._delay)
        )

    @property
    def running(self) -> RunningKind:
        """The controller as a part of the process, without reflectors."""
        recheck = self.controller.recheck
        resync = Resync(kube=self.kube, store=self.store, namespaces=(), recheck=recheck)
        return RunningKind(controller=self.controller, resync=resync)

    def _delay(self, seconds: float, callback: Callable[[], None]) -> "Rig":
        self.delays.append(seconds)
        return self

    def cancel(self) -> None:
        """Accept the cancellation of a delay by the queue."""

    async def reconcile(self) -> str:
        """Reconcile once with a full read; return the result."""
        self.reconciler.distrust(KEY, JOBS.kinds)
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
