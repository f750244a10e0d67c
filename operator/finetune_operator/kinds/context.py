"""What the parts of all kinds share."""

from dataclasses import dataclass

from finetune_operator import delays
from finetune_operator.config import ProcessConfig, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import WORKERS, Controller
from finetune_operator.controller.kind import Planner, Reader, S, Telemetry
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.kube.client import Kube
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.queues import QueueSource
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import Watches
from finetune_operator.types import Key
from finetune_operator.workqueue.workqueue import WorkQueue


@dataclass(frozen=True, kw_only=True)
class Context:
    """The client, the executor of plans, and the configuration."""

    kube: Kube
    executor: PlanExecutor
    config: ProcessConfig
    settings: Settings

    def live(self, watches: Watches) -> LiveReader:
        """Return a reader of objects, with an empty store."""
        return LiveReader(kube=self.kube, store=ObjectStore(watches))

    def controller(
        self,
        store: ObjectStore,
        reader: Reader[S],
        planner: Planner[S],
        telemetry: Telemetry[S],
        *,
        workers: int = WORKERS,
    ) -> Controller[S]:
        """Return the controller of a kind, with its queue."""
        reconciler = Reconciler(
            store=store,
            reader=reader,
            executor=self.executor,
            planner=planner,
            telemetry=telemetry,
        )
        name = store.watches.own.lower()
        queue = WorkQueue[Key](name, interval=delays.INTERVAL, burst=delays.BURST)
        return Controller(reconciler=reconciler, queue=queue, workers=workers)

    def queues(self) -> QueueSource | None:
        """Return the queues of Kueue, None if the operator does not read them."""
        if not self.config.kueue.enabled:
            return None
        return QueueSource(kube=self.kube, gpu=self.settings.gpu.resource_name)

    def resync(self, controller: Controller[S], namespaces: tuple[str, ...] = ()) -> Resync:
        """Return the resync of a controller. namespaces: none for all, or a cluster-scoped kind."""
        return Resync(
            kube=self.kube,
            store=controller.reconciler.store,
            namespaces=namespaces,
            recheck=controller.recheck,
        )
