"""Finding what the watches lost: every kind is listed once, and compared with what looks saw.

A watch that lists anew does not tell of what is gone. So every ``RESYNC_SECONDS``, and when this
replica begins to lead, the names and versions of all jobs and of all that carries their label are
listed in pages, and the jobs that differ from what the last look at them saw are looked at again. A
job that nobody has looked at differs. Of each job one number is kept, however much it owns.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError, Transient
from finetune_operator.objects.naming import JOB as JOB_LABEL
from finetune_operator.types import LISTS, Key, Object, Snapshot

RESYNC_SECONDS = 300.0
AGAIN_SECONDS = 5.0
logger = logging.getLogger(__name__)


def fingerprint(snapshot: Snapshot) -> int:
    """Return a number that is the same while a job and what carries its label are the same."""
    children = (child for field in LISTS.values() for child in getattr(snapshot, field))
    return _of_job(snapshot.job) ^ _of_children(children)


def _of_job(job: Object) -> int:
    # Not the version: our own status writes change it.
    metadata = job["metadata"]
    return hash((metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp")))


def _of_children(children: Iterable[Object]) -> int:
    print_ = 0
    for child in children:
        print_ ^= hash((child["metadata"]["uid"], child["metadata"]["resourceVersion"]))
    return print_


@dataclass(frozen=True, kw_only=True)
class Resync:
    """See the module. ``known``: fingerprints of the last looks; ``wake`` takes what differs."""

    kube: Kube
    namespaces: tuple[str, ...]
    known: Mapping[Key, int]
    wake: Callable[[Key], None]

    async def run(self) -> None:
        """Compare now and then, for ever."""
        while True:
            try:
                differing = await self.once()
            except OperatorError as error:
                logger.warning("resync failed: %s", error)
                asked = error.retry_after if isinstance(error, Transient) else None
                await asyncio.sleep(max(AGAIN_SECONDS, asked or 0.0))
                continue
            logger.info("resync", extra={"differing": differing})
            await asyncio.sleep(RESYNC_SECONDS)

    async def once(self) -> int:
        """Wake the jobs that differ; return how many these are. Raises OperatorError."""
        before = dict(self.known)
        found: dict[Key, int] = {}
        for namespace in self.namespaces or ("",):
            async for page in self.kube.pages("FineTuneJob", namespace, metadata_only=True):
                for job in page:
                    metadata = job["metadata"]
                    found[metadata["namespace"], metadata["name"]] = _of_job(job)
        for kind in LISTS:
            for namespace in self.namespaces or ("",):
                pages = self.kube.pages(kind, namespace, labels=JOB_LABEL, metadata_only=True)
                async for page in pages:
                    for child in page:
                        metadata = child["metadata"]
                        key = metadata["namespace"], metadata["labels"][JOB_LABEL]
                        if key in found:
                            found[key] ^= _of_children([child])
        differing = {key for key, print_ in found.items() if before.get(key) != print_}
        # Also what is gone: it is to be forgotten.
        differing |= before.keys() - found.keys()
        for key in differing:
            self.wake(key)
        return len(differing)
