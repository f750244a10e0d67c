"""Takes the snapshot of a job from the store, and reads live what the store cannot contain.

A read usually sends no request. It reads live:

* the kinds that the caller names: all after a conflict or an error, some to confirm a plan;
* by its name, a FineTuneJob or an object of the ledger (``expected``) that the store lacks;
* the ConfigMap of a revision, of which the store has only the digests, once for each version;
* the events of objects that have not run for ``delays.EVENTS_OF_PENDING``.

Metrics of pods are the last values of the ``scraper``; a read does not wait for them.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator import delays
from finetune_operator.config import Settings
from finetune_operator.kube.client import Kube
from finetune_operator.kube.kinds import CORE_EVENT, FINETUNEJOB
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.trimming import trimmed
from finetune_operator.snapshot.expected import expected
from finetune_operator.snapshot.pending import event_fields, pending_objects
from finetune_operator.snapshot.reflector import METADATA_ONLY
from finetune_operator.snapshot.scraper import PodMetrics
from finetune_operator.snapshot.store import ObjectStore, name_of, version_of
from finetune_operator.snapshot.targets import targets
from finetune_operator.types import LISTS, Key, Object, Progress, Snapshot, Verification

MAX_EVENTS = 100


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


@dataclass(kw_only=True)
class RecentEvents:
    """The events of one job that were read last."""

    at: float = float("-inf")
    events: tuple[Object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reader:
    """See the module. Every method raises OperatorError."""

    kube: Kube
    store: ObjectStore
    metrics: PodMetrics
    settings: Settings
    clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    recent: dict[Key, RecentEvents] = field(default_factory=dict)

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Set[str] = frozenset(),
    ) -> Snapshot | None:
        """Return the snapshot of a job, None if the job does not exist.

        live: kinds that are read from the API server first; names: kind and name of further objects
        to read; created: uids of Jobs, see ``Snapshot.created``.
        """
        await self._refresh(key, live)
        for kind, name in names:
            if kind not in live:
                await self._get(kind, (key[0], name))
        job = self.store.job(key)
        if job is None and FINETUNEJOB not in live:
            await self._refresh(key, frozenset({FINETUNEJOB}))
            job = self.store.job(key)
        if job is None:
            return None
        children: dict[str, Any] = self.store.children(key)
        await self._complete(key, job, children)
        snapshot = Snapshot(job=job, settings=self.settings, **children)
        values = self.metrics.latest(key, targets(snapshot))
        return dataclasses.replace(
            snapshot,
            created=frozenset(created & {each["metadata"]["uid"] for each in snapshot.jobs}),
            events=await self._events(key, snapshot),
            progress=next((each for each in values if isinstance(each, Progress)), None),
            verification=next((each for each in values if isinstance(each, Verification)), None),
            loaded=next((each for each in values if isinstance(each, float)), None),
        )

    def forget(self, key: Key) -> None:
        """Forget a job that was deleted, or that another replica reconciles."""
        self.recent.pop(key, None)
        self.metrics.forget(key)

    async def verify(self, name: tuple[str, str]) -> bool:
        """Read a ConfigMap if its digests are unknown; return whether they are known now."""
        if self.store.version("ConfigMap", name) == 0 or self.store.is_verified(name):
            return False
        await self._get("ConfigMap", name)
        return self.store.is_verified(name)

    async def _refresh(self, key: Key, kinds: Set[str]) -> None:
        """Read the objects of some kinds with the label of a job into the store."""

        async def list_(kind: str) -> None:
            version = max(
                (version_of(each) for each in self.store.children(key)[LISTS[kind]]), default=0
            )
            listed = await self.kube.list(
                kind,
                key[0],
                labels=f"{naming.JOB}={key[1]}",
                metadata_only=kind in METADATA_ONLY,
            )
            for each in listed:
                self.store.put(each)
            self.store.retain(kind, {name_of(each) for each in listed}, version, key=key)

        async def jobs_then_pods() -> None:
            # A pod list that is older than the Job list could show running pods of a finished Job.
            # Its result would be missed, and so would a pod that survived the deletion of its Job.
            for kind in ("Job", "Pod"):
                if kind in kinds:
                    await list_(kind)

        others = (kind for kind in LISTS if kind in kinds - {"Job", "Pod"})
        job = [self._get(FINETUNEJOB, key)] if FINETUNEJOB in kinds else []
        await asyncio.gather(jobs_then_pods(), *map(list_, others), *job)

    async def _get(self, kind: str, name: tuple[str, str]) -> Object | None:
        """Read an object into the store, and return it; None if it does not exist."""
        version = self.store.version(kind, name)
        found = await self.kube.get(kind, *name)
        if found is None:
            self.store.evict(kind, name, version)
            return None
        # Without data, a ConfigMap would look like its metadata.
        body = {"data": {}, **found} if kind == "ConfigMap" else found
        self.store.put(body)
        return trimmed(body)

    async def _complete(self, key: Key, job: Object, children: dict[str, Any]) -> None:
        """Add the objects of the ledger that the store lacks, though they exist."""
        for kind, name in expected(job):
            known = children[LISTS[kind]]
            if all(each["metadata"]["name"] != name for each in known):
                found = await self._get(kind, (key[0], name))
                if found is not None:
                    children[LISTS[kind]] = (*known, found)
        revision = status_view.of_job(job).revision
        if revision and await self.verify((key[0], naming.revision_name(key[1], revision))):
            children["configmaps"] = self.store.children(key)["configmaps"]

    async def _events(self, key: Key, snapshot: Snapshot) -> tuple[Object, ...]:
        pending = [
            each
            for each in pending_objects(
                volumes=snapshot.volumes, jobs=snapshot.jobs, pods=snapshot.pods
            )
            if self._age(each) >= delays.EVENTS_OF_PENDING
        ]
        if not pending:
            self.recent.pop(key, None)
            return ()
        recent = self.recent.setdefault(key, RecentEvents())
        if self.monotonic() - recent.at >= delays.EVENTS:
            lists = await asyncio.gather(
                *(
                    self.kube.list(CORE_EVENT, key[0], fields=event_fields(each), limit=MAX_EVENTS)
                    for each in pending
                )
            )
            recent.events = tuple(event for events in lists for event in events)
            recent.at = self.monotonic()
        return recent.events

    def _age(self, each: Object) -> float:
        """Return the age of an object in seconds; a wrong clock makes it old, never new."""
        created = datetime.fromisoformat(str(each["metadata"]["creationTimestamp"]))
        return abs((self.clock() - created).total_seconds())
