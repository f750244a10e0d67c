"""An operator whose watches lag: its store misses the last events of any kinds of objects.

Store, reader, confirmation and planner are real. The API server is ``Cluster``, of which live reads
see the present state.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from tests.fakes.apiserver import Cluster, Thing, copied

from finetune_operator.config import Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import ContentConflict
from finetune_operator.kube.kinds import CORE_EVENT, FINETUNEJOB
from finetune_operator.kube.recorder import Recorder
from finetune_operator.reconcile import plan as planner
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.profiles import Profiles
from finetune_operator.snapshot.reader import JobReader
from finetune_operator.snapshot.scraping.scraper import Value
from finetune_operator.snapshot.scraping.targets import Target
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.telemetry.gpu_seconds import GpuSeconds
from finetune_operator.telemetry.job_metrics import JobMetrics
from finetune_operator.types import LISTS, Key, Object, Plan, Snapshot

KINDS = (FINETUNEJOB, *LISTS)
LOOP = asyncio.new_event_loop()


class ClusterKube(Kube):
    """Live reads of a ``Cluster``. ``between`` is called before each list of pods."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.between: Callable[[], None] = lambda: None

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found = self.cluster.job if kind == FINETUNEJOB else self.cluster.get(kind, name)
        return None if found is None else dict(copied(found))

    async def list(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        metadata_only: bool = False,
    ) -> tuple[Object, ...]:
        if kind == CORE_EVENT:
            return tuple(copied(self.cluster.events))
        if kind == "Pod":
            self.between()
        return tuple(_watched(each) for each in self.cluster.list(kind))


class ClusterMetrics:
    """The metrics that the pods of a ``Cluster`` report."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def latest(self, key: Key, targets: Iterable[Target]) -> tuple[Value, ...]:
        verification = self.cluster.verification()
        values = (
            self.cluster.running_progress(),
            self.cluster.loaded,
            verification,
            *self.cluster.requests(),
        )
        return tuple(value for value in values if value is not None)

    def verification_due(self, key: Key) -> float:
        """No serving pod is scraped for a verification result."""
        return 0.0

    def forget(self, key: Key) -> None:
        """Nothing is remembered."""


class ClusterProfiles(Profiles):
    """The profiles of a ``Cluster``, which are read live."""

    def __init__(self, cluster: Cluster, live: LiveReader) -> None:
        super().__init__(live=live)
        object.__setattr__(self, "cluster", cluster)

    async def of(self, job: Object) -> tuple[Object, ...]:
        cluster: Cluster = vars(self)["cluster"]
        return cluster.profiles_of(job)


class LaggingOperator:
    """An operator with a cache of its own.

    ``lag``: the number of events that are not delivered yet, by kind.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.key = cluster, ("ns", cluster.name)
        self.lag: Mapping[str, int] = {}
        self.kube = ClusterKube(cluster)
        self.start()

    def start(self) -> None:
        """Start the process: it lists all objects."""
        self._recorded: dict[tuple[str, str], Thing] = {}
        self._events: dict[str, deque[tuple[str, Thing]]] = {kind: deque() for kind in KINDS}
        self.store = ObjectStore()
        live = LiveReader(kube=self.kube, store=self.store)
        self.reader = JobReader(
            live=live,
            profiles=ClusterProfiles(self.cluster, live),
            metrics=ClusterMetrics(self.cluster),
            settings=self.cluster.config,
            clock=lambda: self.cluster.now,
            monotonic=lambda: self.cluster.now.timestamp(),
        )
        self.reconciler = Reconciler(
            store=self.store,
            reader=self.reader,
            executor=PlanExecutor(kube=self.kube, recorder=Recorder(self.kube, instance="fake")),
            planner=planner,
            telemetry=JobMetrics(GpuSeconds()),
        )
        self.catch_up({})

    def record(self) -> None:
        """Append the changes since the last call to the events of each kind."""
        present = {(kind, name): each for (kind, name), each in self.cluster.objects.items()}
        if self.cluster.job is not None:
            present[FINETUNEJOB, self.cluster.name] = self.cluster.job
        changed = [
            (int(each["metadata"]["resourceVersion"]), "MODIFIED", each)
            for key, each in present.items()
            if _version(self._recorded.get(key)) != _version(each)
        ]
        for key in self._recorded.keys() - present.keys():
            gone = copied(self._recorded.pop(key))
            gone["metadata"]["resourceVersion"] = str(self.cluster.version)
            changed.append((self.cluster.version, "DELETED", gone))
        for _, what, each in sorted(changed, key=lambda change: change[0]):
            each = copied(each)
            if what == "MODIFIED":
                self._recorded[each["kind"], each["metadata"]["name"]] = each
            self._events[each["kind"]].append((what, each))

    def catch_up(self, lag: Mapping[str, int] | None = None) -> None:
        """Deliver the events of each kind except the last ones. lag: by default, ``self.lag``."""
        self.record()
        for kind, events in self._events.items():
            while len(events) > (self.lag if lag is None else lag).get(kind, 0):
                what, each = events.popleft()
                change = self.store.remove if what == "DELETED" else self.store.put
                change(_watched(each))

    def observe(
        self, now: datetime, config: Settings, between: Callable[[], None] = lambda: None
    ) -> tuple[Snapshot, Plan] | None:
        """Return the confirmed plan and its snapshot. between: is called before pods are listed."""
        self.reconciler.reader = self.reader = replace(self.reader, settings=config)
        self.kube.between = between
        return LOOP.run_until_complete(self.reconciler.observe(self.key, now))

    def wrote(self, target: Object) -> None:
        """Store the response to a write.

        It is an event, too: otherwise nothing would report that the object is deleted right after.
        """
        self.record()
        found = LOOP.run_until_complete(
            self.kube.get(target["kind"], "ns", target["metadata"]["name"])
        )
        if found is not None:
            self.store.put(found)
            self.reconciler.memories[self.key].has_created(target, found)

    def found(self, existing: Thing) -> None:
        """Handle the rejection of a creation as the reconciler does."""
        self.reconciler.memories[self.key].has_found(ContentConflict(existing))

    def failed(self) -> None:
        """Handle a failed write as the reconciler does."""
        self.reconciler.distrust(self.key, JOBS.kinds)


def _version(each: Thing | None) -> str:
    return "" if each is None else str(each["metadata"]["resourceVersion"])


def _watched(each: Thing) -> Thing:
    """Return an object as a watch of its kind reports it; the result shares its values."""
    return {key: value for key, value in each.items() if (each["kind"], key) != DATA}


DATA = ("ConfigMap", "data")
