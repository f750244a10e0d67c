"""Resync: compares the versions of all objects with those of the last reconciles.

A watch that lists again does not report deletions. So every ``RESYNC_SECONDS``, and when this
replica becomes the leader, the metadata of all jobs and of all objects with their label is listed
in pages. Jobs whose fingerprint differs from that of their last reconcile are enqueued for a full
read; so are jobs that have never been reconciled. The fingerprint of a job is one number, however
many objects the job owns.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError, Transient
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects.digest import object_version
from finetune_operator.objects.naming import JOB as JOB_LABEL
from finetune_operator.types import LISTS, Key, Object, Snapshot

RESYNC_SECONDS = 300.0
RETRY_SECONDS = 5.0
logger = logging.getLogger("finetune_operator.resync")


def fingerprint(snapshot: Snapshot) -> int:
    """Return a number that changes with the versions of a job and of its labeled objects."""
    children = (child for name in LISTS.values() for child in getattr(snapshot, name))
    return _of_job(snapshot.job) ^ _of_children(children)


def _of_job(job: Object) -> int:
    # The resourceVersion is left out: our own status writes change it.
    metadata = job["metadata"]
    return hash((metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp")))


def _of_children(children: Iterable[Object]) -> int:
    result = 0
    for child in children:
        result ^= object_version(child)
    return result


@dataclass(frozen=True, kw_only=True)
class Resync:
    """See the module. ``fingerprints`` returns those of the last reconciles."""

    kube: Kube
    namespaces: tuple[str, ...]
    fingerprints: Callable[[], Mapping[Key, int]]
    enqueue: Callable[[Key], None]

    async def run(self) -> None:
        """Resync periodically until cancelled."""
        while True:
            try:
                enqueued = await self.resync()
            except OperatorError as error:
                logger.warning("resync failed: %s", error)
                retry_after = error.retry_after if isinstance(error, Transient) else None
                await asyncio.sleep(max(RETRY_SECONDS, retry_after or 0.0))
                continue
            logger.info("resync completed", extra={"enqueued": enqueued})
            await asyncio.sleep(RESYNC_SECONDS)

    async def resync(self) -> int:
        """Enqueue the jobs that differ; return their number. Raises OperatorError."""
        reconciled = self.fingerprints()
        listed: dict[Key, int] = {}
        for namespace in self.namespaces or ("",):
            async for page in self.kube.pages(FINETUNEJOB, namespace, metadata_only=True):
                for job in page:
                    metadata = job["metadata"]
                    listed[metadata["namespace"], metadata["name"]] = _of_job(job)
        for kind in LISTS:
            for namespace in self.namespaces or ("",):
                pages = self.kube.pages(kind, namespace, labels=JOB_LABEL, metadata_only=True)
                async for page in pages:
                    for child in page:
                        metadata = child["metadata"]
                        key = metadata["namespace"], metadata["labels"][JOB_LABEL]
                        if key in listed:
                            listed[key] ^= object_version(child)
        differing = {key for key, value in listed.items() if reconciled.get(key) != value}
        # Deleted jobs are reconciled once more, which forgets them.
        differing |= reconciled.keys() - listed.keys()
        for key in differing:
            self.enqueue(key)
        return len(differing)
