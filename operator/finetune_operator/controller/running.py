"""The running parts of one of our own kinds, and how its objects reach them."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.resync import Resync
from finetune_operator.kube.kinds import KINDS
from finetune_operator.objects import naming
from finetune_operator.snapshot.store import ObjectStore, version_of
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class RunningKind:
    """A kind with its controller, and what keeps its store up to date."""

    controller: Controller[Any]
    resync: Resync
    others: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """What else runs on the leader."""

    @property
    def store(self) -> ObjectStore:
        """The objects of the kind, and what they own."""
        return self.resync.store

    @property
    def own(self) -> str:
        """The kind."""
        return self.store.watches.own

    def deliver(self, what: str | None, body: dict[str, Any]) -> None:
        """Store an object of the kind, and wake its reconcile.

        what: the type of the watch event, None for an object of a list. kopf's lists do not report
        the objects that were deleted before, so a resync follows.
        """
        if what is None:
            self.resync.request()
        item: Object = {**body, "apiVersion": KINDS[self.own].api_version, "kind": self.own}
        # kopf's views of an object form a cycle, so its event is freed only when all objects are
        # searched for garbage. By then 1,000 edits of a large job would hold 200 MiB.
        for large in ("spec", "status"):
            body.pop(large, None)
        annotations = naming.own_annotations(body)
        for unused in ("managedFields", "annotations"):
            body["metadata"].pop(unused, None)
        if annotations:
            body["metadata"]["annotations"] = annotations
        change = self.store.remove if what == "DELETED" else self.store.put
        for key in change(item):
            self.controller.notify(key, self.own, version_of(item), True)

    async def run(self) -> None:
        """Reconcile until cancelled. Raises the error that ended a part."""
        await run_until_first_exit(
            self.controller.run(), self.resync.run(), *(start() for start in self.others)
        )


async def run_until_first_exit(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Wait for the first part to end, cancel the others, and raise an error that ended any."""
    tasks = [
        part if isinstance(part, asyncio.Task) else asyncio.create_task(part) for part in parts
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
