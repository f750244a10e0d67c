"""Takes the snapshot of a job from the store, and reads live what the store cannot contain.

A read usually sends no request. It reads live:

* the kinds that the caller names: all after a conflict or an error, some to confirm a plan;
* by its name, a FineTuneJob, its FineTuneProfile or an object of the ledger (``expected``) that the
  store lacks;
* the ConfigMap of a revision, of which the store has only the digests, once for each version;
* the events of objects that have not run for ``delays.EVENTS_OF_PENDING``.

Metrics of pods are the last values of the ``scraper``; a read does not wait for them.
"""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.config import Settings
from finetune_operator.objects import naming, status_view
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.expected import expected
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.pending import pending_objects
from finetune_operator.snapshot.profiles import Profiles
from finetune_operator.snapshot.queues import QueueSource
from finetune_operator.snapshot.scraping.scraper import PodMetrics
from finetune_operator.snapshot.scraping.targets import targets
from finetune_operator.snapshot.usage import UsageSource
from finetune_operator.types import (
    LISTS,
    NO_JOBS,
    Key,
    Object,
    Plan,
    PodProgress,
    Requests,
    Snapshot,
    Verification,
)

EndpointLookup = Callable[[str, str], Awaitable[Object | None]]
"""Returns the FineTuneEndpoint with a namespace and name."""


@dataclass(kw_only=True)
class RecentEvents:
    """The events of one job that were read last."""

    at: float = float("-inf")
    events: tuple[Object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobReader:
    """The reader of FineTuneJobs (``controller.kind``). Methods that await raise OperatorError."""

    live: LiveReader
    metrics: PodMetrics
    settings: Settings
    profiles: Profiles | None = None
    budgets: Budgets | None = None
    endpoint: EndpointLookup | None = None
    usage: UsageSource | None = None
    """None if the usage of GPUs is not recorded."""
    queues: QueueSource | None = None
    """None if the operator does not read the queues of Kueue."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    recent: dict[Key, RecentEvents] = field(default_factory=dict)

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> Snapshot | None:
        """Return the snapshot of a job, None if the job does not exist.

        live: kinds that are read from the API server first; names: kind and name of further objects
        to read; created: see ``Snapshot.created``.
        """
        store, own = self.live.store, self.live.store.watches.own
        await self.live.refresh(key, live)
        for kind, name in names:
            if kind not in live:
                await self.live.get(kind, (key[0], name))
        job = store.owner(key)
        if job is None and own not in live:
            await self.live.refresh(key, frozenset({own}))
            job = store.owner(key)
        if job is None:
            return None
        children: dict[str, Any] = store.children(key)
        await self._complete(key, job, children)
        profiles = () if self.profiles is None else await self.profiles.of(job)
        parent = await self._parent(key, job)
        endpoints = await self._endpoints(key, job)
        # The accounts first: they wait for other reads, and what follows is of the same moment.
        accounts = None if self.budgets is None else await self.budgets.of(job)
        usage = None if self.usage is None else await self.usage.read(key[0])
        queues = None if self.queues is None else await self.queues.of(key[0], children["jobs"])
        snapshot = Snapshot(
            job=job,
            settings=self.settings,
            profiles=profiles,
            parent=parent,
            endpoints=endpoints,
            usage=usage,
            accounts=accounts,
            queues=queues,
            **children,
        )
        values = self.metrics.latest(key, targets(snapshot))
        present = {job["metadata"]["uid"] for job in snapshot.jobs}
        return dataclasses.replace(
            snapshot,
            created={uid: same for uid, same in created.items() if uid in present},
            events=await self._events(key, snapshot),
            progress=next((value for value in values if isinstance(value, PodProgress)), None),
            verification=next((value for value in values if isinstance(value, Verification)), None),
            requests=tuple(value for value in values if isinstance(value, Requests)),
            loaded=next((value for value in values if isinstance(value, float)), None),
        )

    def forget(self, key: Key) -> None:
        """Forget a job that was deleted, or that another replica reconciles."""
        self.recent.pop(key, None)
        self.metrics.forget(key)

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Read or reserve what a plan depends on and the snapshot lacked; report if it is news."""
        request = plan.reservation
        if request is not None and self.usage is not None and await self.usage.reserve(request):
            return True
        wanted = plan.serving_gpus
        if wanted is not None and self.budgets is not None and self.budgets.grant(key, wanted):
            return True
        after = status_view.of(plan.status)
        if after.ready_reason == Reason.QUEUE_NOT_FOUND and self.queues is not None:
            # It may be new: people create a queue and a job together.
            return await self.queues.refresh()
        revision = after.revision
        return revision is not None and await self._verify(key, revision)

    def wait(self, key: Key, snapshot: Snapshot, plan: Plan) -> float:
        """Return for how many seconds the execution of a plan waits for information; usually 0.

        A plan that reports the endpoint as ready waits until the first scrape of the serving pod
        ends. Users then find the verification result as soon as the job is Ready, and it needs no
        write of its own.
        """
        before, after = status_view.of_job(snapshot.job), status_view.of(plan.status)
        starts_serving = after.ready_reason == Reason.SERVING != before.ready_reason
        return self.metrics.verification_due(key) if starts_serving else 0.0

    async def _verify(self, key: Key, revision: str) -> bool:
        return await self.live.verify((key[0], naming.revision_name(key[1], revision)))

    async def _complete(self, key: Key, job: Object, children: dict[str, Any]) -> None:
        """Add the objects of the ledger that the store lacks, though they exist."""
        for kind, name in expected(job):
            present = children[LISTS[kind]]
            if all(sibling["metadata"]["name"] != name for sibling in present):
                child = await self.live.get(kind, (key[0], name))
                if child is not None:
                    children[LISTS[kind]] = (*present, child)
        revision = status_view.of_job(job).revision
        if revision and await self._verify(key, revision):
            children["configmaps"] = self.live.store.children(key)["configmaps"]

    async def _parent(self, key: Key, job: Object) -> Object | None:
        """Return the job whose adapter a job continues from, of the same namespace.

        If the store lacks it, it is read, unless the present revision has its adapter already.
        """
        name = naming.parent_of(job)
        if name is None:
            return None
        parent = key[0], name
        if _has_adapter(job, name):
            return self.live.store.owner(parent)
        return await self.live.owner(parent)

    async def _endpoints(self, key: Key, job: Object) -> tuple[Object, ...]:
        """Return the FineTuneEndpoints of a job that exist."""
        if self.endpoint is None:
            return ()
        endpoints = [await self.endpoint(key[0], name) for name in status_view.endpoint_names(job)]
        return tuple(endpoint for endpoint in endpoints if endpoint is not None)

    async def _events(self, key: Key, snapshot: Snapshot) -> tuple[Object, ...]:
        pending = [
            child
            for child in pending_objects(
                volumes=snapshot.volumes, jobs=snapshot.jobs, pods=snapshot.pods
            )
            if self._age(child) >= delays.EVENTS_OF_PENDING
        ]
        if not pending:
            self.recent.pop(key, None)
            return ()
        recent = self.recent.setdefault(key, RecentEvents())
        if self.monotonic() - recent.at >= delays.EVENTS:
            recent.events = await self.live.events(key[0], pending)
            recent.at = self.monotonic()
        return recent.events

    def _age(self, child: Object) -> float:
        """Return the age of an object in seconds; a wrong clock makes it old, never new."""
        created = datetime.fromisoformat(str(child["metadata"]["creationTimestamp"]))
        return abs((self.clock() - created).total_seconds())


def _has_adapter(job: Object, name: str) -> bool:
    """Report whether the revision of the present spec has started from the adapter of a job."""
    status = status_view.of_job(job)
    return status.observed_generation == job["metadata"]["generation"] and any(
        record.name == status.revision and record.parent == name for record in status.revisions()
    )
