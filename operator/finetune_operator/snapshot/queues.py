"""The queues of Kueue, which are listed at most once in ``delays.QUEUES`` seconds.

They are listed when a job is reconciled, and Workloads only for a namespace in which a train Job
waits. Queues seldom change, so nothing is watched. An error stops no job: what was known last
remains for ``delays.QUEUES_KNOWN`` seconds, and before the first list nothing is known.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from finetune_operator import delays
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError
from finetune_operator.queues.values import Place, Queue, Queues, places, queue_of
from finetune_operator.types import Object

logger = logging.getLogger("finetune_operator.queues")


@dataclass(kw_only=True)
class QueueSource:
    """The queues of all namespaces, and the places of the Jobs of some."""

    kube: Kube
    gpu: str
    """Resource name of a GPU."""
    monotonic: Callable[[], float] = time.monotonic
    _at: float = float("-inf")
    _listed: float = float("-inf")
    """When the queues were last listed without an error."""
    _local: Mapping[str, Mapping[str, Queue]] | None = None
    """By namespace and name; None before the first list."""
    _places: dict[str, tuple[float, Mapping[str, Place]]] = field(default_factory=dict)
    """By namespace, with the time of the list."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _problem: str = ""

    async def of(self, namespace: str, jobs: Iterable[Object]) -> Queues | None:
        """Return the queues of a namespace; None if they are not known. jobs: those of one job."""
        if self._is_due(self._at, delays.QUEUES):
            async with self._lock:
                # Many jobs may have waited for the same list.
                if self._is_due(self._at, delays.QUEUES):
                    await self._list()
        if self._local is None:
            return None
        own = self._local.get(namespace, {})
        return Queues(local=own, places=await self._places_in(namespace, jobs))

    async def refresh(self) -> bool:
        """List the queues again unless they just were; return whether they have changed."""
        async with self._lock:
            before = self._local
            if self._is_due(self._at, delays.QUEUES_AGAIN):
                await self._list()
            return before != self._local

    async def _list(self) -> None:
        self._at = self.monotonic()
        try:
            local, cluster, flavors = await asyncio.gather(
                self.kube.list("LocalQueue"),
                self.kube.list("ClusterQueue"),
                self.kube.list("ResourceFlavor"),
            )
        except OperatorError as error:
            self._report(f"the queues of Kueue cannot be listed: {error}")
            if self._is_due(self._listed, delays.QUEUES_KNOWN):
                self._local = None
            return
        self._report("")
        cluster_queues, by_name = _by_name(cluster), _by_name(flavors)
        queues: dict[str, dict[str, Queue]] = {}
        for local_queue in local:
            metadata = local_queue["metadata"]
            queue = queue_of(local_queue, cluster_queues, by_name, self.gpu)
            queues.setdefault(metadata["namespace"], {})[metadata["name"]] = queue
        self._local, self._listed = queues, self._at

    async def _places_in(self, namespace: str, jobs: Iterable[Object]) -> Mapping[str, Place]:
        """Return the places in a namespace if a Job waits there."""
        if not any(_waits(job) for job in jobs):
            return {}
        at, earlier = self._places.get(namespace, (float("-inf"), {}))
        if not self._is_due(at, delays.PLACES):
            return earlier
        self._places[namespace] = self.monotonic(), earlier
        try:
            workloads = await self.kube.list("Workload", namespace)
        except OperatorError as error:
            self._report(f"the Workloads of Kueue cannot be listed: {error}")
            return earlier
        current = places(workloads)
        if not current:
            # Nothing waits there any more.
            del self._places[namespace]
            return current
        self._places[namespace] = self._places[namespace][0], current
        return current

    def _is_due(self, at: float, seconds: float) -> bool:
        return self.monotonic() - at >= seconds

    def _report(self, problem: str) -> None:
        """Log a problem once."""
        if problem and problem != self._problem:
            logger.warning(
                "%s. If Kueue is not installed, set the chart value kueue.enabled to false.",
                problem,
            )
        self._problem = problem


def _by_name(objects: Iterable[Object]) -> dict[str, Object]:
    return {body["metadata"]["name"]: body for body in objects}


def _waits(job: Object) -> bool:
    """Report whether a queue may hold a Job: only queues suspend the Jobs of the operator."""
    return bool(job["spec"].get("suspend"))
