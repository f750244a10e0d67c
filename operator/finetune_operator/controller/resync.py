"""Resync: compares the objects of our own kind in the store with those that exist.

kopf's watch does not report the objects that were deleted between two of its lists. So after each
of its lists, and every ``delays.RESYNC``, the metadata of all objects is listed in pages. An object
of which the store has an older version, or which does not exist any more, is read by its name,
unless the watch reports the change within ``delays.RESYNC_GRACE``.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_operator import delays
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError, Restored, Transient
from finetune_operator.snapshot import history
from finetune_operator.snapshot.store import ObjectStore, name_of, version_of
from finetune_operator.types import Key

logger = logging.getLogger("finetune_operator.resync")


@dataclass(kw_only=True)
class Resync:
    """``recheck`` takes the key of an object that must be read by its name."""

    kube: Kube
    store: ObjectStore
    namespaces: tuple[str, ...]
    recheck: Callable[[Key], None]
    _requested: asyncio.Event = field(default_factory=asyncio.Event)
    _version: int = 0
    """Of the newest list."""

    def request(self) -> None:
        """Request a resync soon: kopf lists the objects again."""
        self._requested.set()

    async def run(self) -> None:
        """Resync periodically, and on request, until cancelled. Raises Restored."""
        while True:
            self._requested.clear()
            try:
                rechecked = await self.resync()
            except Restored:
                raise
            except OperatorError as error:
                logger.warning("resync failed: %s", error)
                retry_after = error.retry_after if isinstance(error, Transient) else None
                await asyncio.sleep(max(delays.RESYNC_RETRY, retry_after or 0.0))
                continue
            logger.info("resync completed", extra={"rechecked": rechecked})
            try:
                async with asyncio.timeout(delays.RESYNC):
                    await self._requested.wait()
            except TimeoutError:
                continue

    async def resync(self) -> int:
        """Recheck the objects that differ; return their number. Raises OperatorError."""
        own = self.store.watches.own
        cached = {key: self.store.version(own, key) for key in self.store.own_keys()}
        listed = await self._list()
        suspects = {key for key, version in listed.items() if cached.get(key, 0) < version}
        suspects |= cached.keys() - listed.keys()
        if not suspects:
            return 0
        await asyncio.sleep(delays.RESYNC_GRACE)
        differing = [
            key
            for key in suspects
            if self.store.version(own, key) < listed.get(key, 0)
            or (key not in listed and 0 < self.store.version(own, key) <= cached[key])
        ]
        for key in differing:
            self.recheck(key)
        return len(differing)

    async def _list(self) -> dict[Key, int]:
        """Return the versions of all objects. Raises OperatorError."""
        own = self.store.watches.own
        listed: dict[Key, int] = {}
        newest = self._version
        for namespace in self.namespaces or ("",):
            async for page in self.kube.pages(own, namespace, metadata_only=True):
                history.check(self.store, own, page, self._version)
                newest = max(newest, int(page.version))
                for item in page.items:
                    listed[name_of(item)] = version_of(item)
        self._version = newest
        return listed
