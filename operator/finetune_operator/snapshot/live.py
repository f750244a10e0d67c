"""Reads from the API server into the store: objects that it lacks, or that may be out of date."""

import asyncio
from collections.abc import Iterable, Set
from dataclasses import dataclass

from finetune_operator.kube.client import Kube
from finetune_operator.kube.kinds import CORE_EVENT
from finetune_operator.objects.compact.trimming import trimmed
from finetune_operator.snapshot.pending import event_fields
from finetune_operator.snapshot.store import ObjectStore, name_of, version_of
from finetune_operator.types import Key, Object

MAX_EVENTS = 100
"""Events that are read of one object."""


@dataclass(frozen=True, kw_only=True)
class LiveReader:
    """Reads the kinds of one controller live. Every method raises OperatorError."""

    kube: Kube
    store: ObjectStore

    async def refresh(self, key: Key, kinds: Set[str]) -> None:
        """Read the objects of some kinds that belong to a key."""
        watches = self.store.watches

        async def jobs_then_pods() -> None:
            # A pod list that is older than the Job list could show running pods of a finished Job.
            # Its result would be missed, and so would a pod that survived the deletion of its Job.
            for kind in ("Job", "Pod"):
                if kind in kinds:
                    await self._list(key, kind)

        others = (kind for kind in watches.owned if kind in kinds - {"Job", "Pod"})
        own = [self.get(watches.own, key)] if watches.own in kinds else []
        await asyncio.gather(jobs_then_pods(), *(self._list(key, kind) for kind in others), *own)

    async def get(self, kind: str, name: tuple[str, str]) -> Object | None:
        """Read an object, and return it; None if it does not exist."""
        version = self.store.version(kind, name)
        fetched = await self.kube.get(kind, *name)
        if fetched is None:
            self.store.evict(kind, name, version)
            return None
        # Without data, a ConfigMap would look like its metadata.
        body = {"data": {}, **fetched} if kind == "ConfigMap" else fetched
        self.store.put(body)
        return trimmed(body)

    async def owner(self, key: Key) -> Object | None:
        """Return an object of the own kind, which is read if the store lacks it, or None.

        kopf may not have listed it yet. The result is not stored, so that its event is still news,
        and its own reconcile follows.
        """
        owner = self.store.owner(key)
        if owner is None:
            fetched = await self.kube.get(self.store.watches.own, *key)
            owner = None if fetched is None else trimmed(fetched)
        return owner

    async def events(self, namespace: str, objects: Iterable[Object]) -> tuple[Object, ...]:
        """Read the events of objects that do not run (``pending``)."""
        lists = await asyncio.gather(
            *(
                self.kube.list(CORE_EVENT, namespace, fields=event_fields(about), limit=MAX_EVENTS)
                for about in objects
            )
        )
        return tuple(event for events in lists for event in events)

    async def verify(self, name: tuple[str, str]) -> bool:
        """Read a ConfigMap if its digests are unknown; return whether they are known now."""
        if self.store.version("ConfigMap", name) == 0 or self.store.is_verified(name):
            return False
        await self.get("ConfigMap", name)
        return self.store.is_verified(name)

    async def _list(self, key: Key, kind: str) -> None:
        watches = self.store.watches
        children = self.store.children(key)[watches.owned[kind]]
        version = max((version_of(child) for child in children), default=0)
        listed = await self.kube.list(
            kind,
            key[0],
            labels=watches.selector(key[1]),
            metadata_only=kind in watches.metadata_only,
        )
        for child in listed:
            self.store.put(child)
        self.store.retain(kind, {name_of(child) for child in listed}, version, key=key)
