"""Keeps the objects of one kind in the stores: lists them, then watches from the list's version.

The order of the events of one kind is that of the API server. A watch that ends is continued from
the last version, of which bookmarks report the newest. If the API server has forgotten that
version, or the watch fails repeatedly, the objects are listed again; those that are missing in the
list are removed from the stores. One watch serves the stores of all owners: jobs and endpoints own
objects of the same kinds, and a cluster without endpoints pays for no further watch.

A list that contradicts what was observed before means that etcd was restored from a backup. Then
no version in the store is comparable any more, and the process restarts (``history``).
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from finetune_operator.kube.client import Kube, Page
from finetune_operator.kube.errors import Gone, OperatorError, Restored, Transient
from finetune_operator.kube.kinds import KINDS
from finetune_operator.objects.deployments import answering
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.snapshot import history
from finetune_operator.snapshot.store import Name, ObjectStore, name_of, version_of
from finetune_operator.snapshot.watches import MANAGED
from finetune_operator.telemetry import metrics
from finetune_operator.types import Key, Object

FIRST_DELAY_SECONDS, MOST_DELAY_SECONDS = 0.5, 8.0
"""Between two attempts, doubling; varied so that the watches of many kinds spread over time."""
WATCH_ATTEMPTS = 3
"""Failures in succession after which the objects are listed again."""
PAGES_AT_ONCE = 2
"""Pages of lists, of any kinds, that are requested at once: the API server prepares one of them
while the other one is stored. More would need more memory."""

Notify = Callable[[Key, str, int, bool], None]
"""Takes the key of an owner, and of an object with news for it: kind, version, and whether it is
urgent: the object is gone, or will soon be gone with its result, or lets the owner continue."""

logger = logging.getLogger("finetune_operator.reflector")


@dataclass(frozen=True, kw_only=True)
class Owners:
    """The store of one kind of owners, and what wakes their reconciles."""

    store: ObjectStore
    notify: Notify

    def concerns(self, item: Object) -> bool:
        """Report whether an object has, or had, one of the owners."""
        has = self.store.watches.key_of(item) is not None
        return has or self.store.version(item["kind"], name_of(item)) > 0


@dataclass(kw_only=True)
class Reflector:
    """One kind in one namespace. All reflectors share ``turns``, see ``PAGES_AT_ONCE``."""

    kube: Kube
    owners: Sequence[Owners]
    kind: str
    namespace: str
    turns: asyncio.Semaphore
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    _version: int = 0

    async def run(self) -> None:
        """List and watch until cancelled. Raises Restored."""
        failures = 0
        while True:
            try:
                await self._list()
                self.synced.set()
                failures = 0
                await self._watch()
            except Restored:
                raise
            except OperatorError as error:
                logger.warning("listing again: %s", error, extra={"kind": self.kind})
                await asyncio.sleep(_delay(failures))
                failures += 1

    async def _list(self) -> None:
        """Replace the objects of the kind by those that exist. Raises OperatorError."""
        metrics.CACHE_LISTS.labels(self.kind).inc()
        names: set[Name] = set()
        version = 0
        pages = self.kube.pages(
            self.kind,
            self.namespace,
            labels=MANAGED,
            metadata_only=self._metadata_only,
        )
        async with aclosing(pages):
            while (listed := await self._store_next(pages, names)) is not None:
                version = version or listed
        for of in self.owners:
            gone = of.store.retain(self.kind, names, version, namespace=self.namespace)
            self._report(of, gone, version, urgent=True)
        self._version = version

    async def _store_next(self, pages: AsyncGenerator[Page, None], names: set[Name]) -> int | None:
        """Store the objects of the next page and add their names; return the version of the list.

        None: there are no more pages. Raises OperatorError. A page is freed at the end, not when
        the next one has arrived.
        """
        async with self.turns:
            page = await anext(pages, None)
            if page is None:
                return None
            for of in self.owners:
                history.check(of.store, self.kind, page, self._version)
            for item in page.items:
                names.add(name_of(item))
                self._put(item)
            return int(page.version)

    async def _watch(self) -> None:
        """Store all changes until the objects must be listed again. Raises OperatorError."""
        failures = 0
        while True:
            before = self._version
            try:
                events = self.kube.watch(
                    self.kind,
                    self.namespace,
                    since=str(self._version),
                    labels=MANAGED,
                    metadata_only=self._metadata_only,
                )
                async with aclosing(events):
                    async for event in events:
                        self._store(event)
            except Gone:
                raise
            except OperatorError as error:
                failures = 0 if self._version > before else failures + 1
                if failures >= WATCH_ATTEMPTS:
                    raise
                logger.warning("watching again: %s", error, extra={"kind": self.kind})
                await asyncio.sleep(_delay(failures))
            else:
                failures = 0
                await asyncio.sleep(_delay(0) if self._version == before else 0.0)

    def _store(self, event: Object) -> None:
        """Take the change in a watch event. Raises Gone and Transient."""
        what, body = event.get("type"), event.get("object") or {}
        if what == "ERROR":
            text = f"WATCH {KINDS[self.kind].plural}: {body.get('message')}"
            raise Gone(text) if body.get("code") == 410 else Transient(text)
        try:
            version = int(body["metadata"]["resourceVersion"])
            if what in ("ADDED", "MODIFIED", "DELETED"):
                item = {**body, "apiVersion": KINDS[self.kind].api_version, "kind": self.kind}
                if what == "DELETED":
                    for of in self._of(item):
                        self._report(of, of.store.remove(item), version, urgent=True)
                else:
                    self._put(item)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Transient(f"WATCH {KINDS[self.kind].plural}: an invalid event") from error
        self._version = max(self._version, version)

    def _put(self, item: Object) -> None:
        for of in self._of(item):
            urgent = self._is_urgent(of.store, item)
            self._report(of, of.store.put(item), version_of(item), urgent=urgent)

    def _of(self, item: Object) -> Sequence[Owners]:
        """Return those whom an object concerns; all of them if it has lost the label of its owner.

        The others would remember each deleted object for a while.
        """
        return [of for of in self.owners if of.concerns(item)] or self.owners

    @property
    def _metadata_only(self) -> bool:
        return all(self.kind in of.store.watches.metadata_only for of in self.owners)

    def _is_urgent(self, store: ObjectStore, item: Object) -> bool:
        """Report whether an object is a deleted pod that has ended, or a Deployment that answers.

        The result of the pod can be read only now. A job may continue when its endpoint answers,
        and people act when it does not answer any more: the Deployment in the store counts, too.
        """
        if self.kind == "Deployment":
            return answering(item) > 0 or answering(store.get(self.kind, name_of(item))) > 0
        return (
            self.kind == "Pod" and "deletionTimestamp" in item["metadata"] and pod_has_ended(item)
        )

    def _report(self, of: Owners, keys: Iterable[Key], version: int, *, urgent: bool) -> None:
        for key in keys:
            of.notify(key, self.kind, version, urgent)


def reflectors(kube: Kube, owners: Sequence[Owners], namespaces: Iterable[str]) -> list[Reflector]:
    """Return the reflectors of all owned kinds. namespaces: empty means all."""
    turns = asyncio.Semaphore(PAGES_AT_ONCE)
    kinds = dict.fromkeys(kind for of in owners for kind in of.store.watches.owned)
    return [
        Reflector(
            kube=kube,
            owners=[of for of in owners if kind in of.store.watches.owned],
            kind=kind,
            namespace=namespace,
            turns=turns,
        )
        for kind in kinds
        for namespace in (tuple(namespaces) or ("",))
    ]


def _delay(failures: int) -> float:
    seconds = min(MOST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures, 8))
    # A delay is no secret.
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
