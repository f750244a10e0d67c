"""The recorder of usage: settles the GPU time of all namespaces, and reserves that of trainings.

It runs on the leader alone, which reads the FineTuneUsage objects once and then writes them with
the resourceVersion of its last read or write. After a conflict, or a write whose response was lost,
it reads the object again: what is charged already is in its marks, so a repeated settlement adds
nothing. A namespace costs one write per ``delays.SETTLEMENT`` while it uses GPUs, one for all
reservations that wait at the same time, and none otherwise.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from finetune_api.v1alpha1.budgets.usage import MONTH_LABEL, NAMESPACE_LABEL
from finetune_operator import delays
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Conflict, OperatorError, Transient
from finetune_operator.kube.kinds import FINETUNEUSAGE
from finetune_operator.snapshot.gpu_usage import GpuUsage, Removed
from finetune_operator.types import Key, Object
from finetune_operator.usage import records
from finetune_operator.usage.months import Month, month_of
from finetune_operator.usage.settlement import MonthAccount, reserved, settled, training_of
from finetune_operator.usage.values import NamespaceUsage, ReservationRequest, Usage

LOADED_WITHIN = 5.0
"""Seconds for which a reconcile waits for the records of a new leader."""

Gate = Callable[[ReservationRequest, Usage], bool]
"""Decides whether a reservation may be recorded, with all earlier ones in the usage."""

logger = logging.getLogger("finetune_operator.usage")


@dataclass(kw_only=True)
class _Book:
    """The accounts of one namespace as they are stored."""

    previous: MonthAccount | None = None
    account: MonthAccount | None = None
    objects: dict[Month, Object] = field(default_factory=dict)
    """By month, in the version that was read or written last."""
    view: NamespaceUsage = field(default_factory=NamespaceUsage)
    problem: str | None = None
    """Why an object cannot be read."""

    def take(self, account: MonthAccount, stored: Object, namespace: str) -> None:
        """Take an account that was read or written; months come in their order."""
        if self.account is not None and self.account.month < account.month:
            self.previous = self.account
        self.account = account
        self.objects[account.month] = stored
        self.view = self.with_account(namespace, account)

    def with_account(self, namespace: str, account: MonthAccount) -> NamespaceUsage:
        """Return what planners know, with an account in place of the present one of its month."""
        accounts = [other for other in (self.previous, self.account) if other is not None]
        return records.view(
            namespace, [*(other for other in accounts if other.month < account.month), account]
        )


@dataclass(kw_only=True)
class UsageRecorder:
    """The usage of the namespaces, and its records."""

    pods: GpuUsage
    wake: Callable[[Key], None] = lambda key: None
    """Queues a job whose charged GPU time is final."""
    gate: Gate = lambda request, usage: True
    changed: list[Callable[[str], None]] = field(default_factory=list)
    """Take the name of a namespace whose usage has changed."""
    _books: dict[str, _Book] = field(default_factory=dict)
    _waiting: dict[str, dict[str, ReservationRequest]] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kube(self) -> Kube:
        """The client for the API server."""
        return self.pods.kube

    @property
    def now(self) -> int:
        """The time of the API server, in seconds since 1970."""
        return self.pods.clock()

    def of(self, namespace: str) -> NamespaceUsage:
        """Return the usage of a namespace, an empty one before it is loaded."""
        book = self._books.get(namespace)
        return NamespaceUsage() if book is None else book.view

    async def read(self, namespace: str) -> NamespaceUsage:
        """Return the usage of a namespace once it is loaded. Raises OperatorError."""
        await self._require_loaded()
        return self.of(namespace)

    def usage(self) -> Usage:
        """Return the usage of all namespaces."""
        views = {namespace: book.view for namespace, book in self._books.items()}
        return Usage(now=datetime.fromtimestamp(self.now, UTC), namespaces=views)

    async def when_loaded(self) -> Usage:
        """Return the usage of all namespaces once it is read. Raises OperatorError."""
        await self._require_loaded()
        return self.usage()

    async def run(self) -> None:
        """Settle periodically until cancelled."""
        try:
            while True:
                try:
                    await self._load()
                    break
                except OperatorError as error:
                    logger.warning("failed to read the usage: %s", error)
                    await asyncio.sleep(delays.SETTLEMENT_RETRY)
            while True:
                await self.settle()
                await asyncio.sleep(delays.SETTLEMENT)
        finally:
            # Another replica writes now.
            self.loaded.clear()
            self.pods.forget_removals()
            self._books.clear()
            self._waiting.clear()

    async def settle(self) -> None:
        """Settle all namespaces once."""
        for namespace in sorted({*self.pods.namespaces(), *self._open()}):
            try:
                async with self._lock:
                    await self._settle(namespace, ())
            except OperatorError as error:
                logger.warning("settlement failed: %s", error, extra={"namespace": namespace})
            except Exception:
                # One namespace must not keep the operator from the others.
                logger.exception("settlement failed", extra={"namespace": namespace})

    async def reserve(self, request: ReservationRequest) -> bool:
        """Record a reservation; return whether the usage has changed. Raises OperatorError."""
        await self._require_loaded()
        namespace = request.namespace
        self._waiting.setdefault(namespace, {})[request.key] = request
        before = self.of(namespace).reservations.get(request.key)
        async with self._lock:
            if request.key in self._waiting.get(namespace, {}):
                # The others that wait in the namespace share this write.
                await self._settle(namespace, tuple(self._waiting.pop(namespace).values()))
        return self.of(namespace).reservations.get(request.key) != before

    async def _require_loaded(self) -> None:
        try:
            async with asyncio.timeout(LOADED_WITHIN):
                await self.loaded.wait()
        except TimeoutError:
            raise Transient("the FineTuneUsages have not been read yet") from None

    def _open(self) -> Iterator[str]:
        """Return the namespaces with sources that have not ended, or with a month that has."""
        for namespace, book in self._books.items():
            account = book.account
            if account is not None and (
                account.month < month_of(self.now)
                or any(not mark.ended for mark in account.marks.values())
            ):
                yield namespace

    async def _load(self) -> None:
        """Read the objects of the present and the previous month. Raises OperatorError.

        Of a namespace without usage since, its newest one is read: its jobs have their marks there.
        """
        self._books = {}
        current = month_of(self.now)
        for month in (current.previous, current):
            labels = f"{MONTH_LABEL}={month}"
            for usage in await self.kube.list(FINETUNEUSAGE, labels=labels):
                _take(self._books.setdefault(usage["spec"]["namespace"], _Book()), usage)
        usages = await self.kube.list(FINETUNEUSAGE, metadata_only=True)
        for namespace in sorted({usage["metadata"]["labels"][NAMESPACE_LABEL] for usage in usages}):
            book = self._books.get(namespace, _Book())
            if book.account is None and book.problem is None:
                await self._reload(namespace)
        self.pods.watch_removals()
        self.loaded.set()

    async def _reload(self, namespace: str) -> None:
        """Read the objects of a namespace again. Raises OperatorError."""
        book, oldest = _Book(), month_of(self.now).previous
        listed = await self.kube.list(FINETUNEUSAGE, labels=f"{NAMESPACE_LABEL}={namespace}")
        usages = sorted(listed, key=lambda usage: str(usage["spec"]["month"]))
        newest = [usage for usage in usages if usage.get("status")][-1:]
        for usage in usages:
            if usage in newest or Month.parse(usage["spec"]["month"]) >= oldest:
                _take(book, usage)
        self._books[namespace] = book

    async def _settle(self, namespace: str, requests: Sequence[ReservationRequest]) -> None:
        """Settle a namespace and record the reservations that the gate admits.

        Raises OperatorError.
        """
        try:
            await self._attempt(namespace, requests)
        except Conflict:
            await self._reload(namespace)
            await self._attempt(namespace, requests)
        except OperatorError:
            # Whether the write took effect is unknown.
            await self._reload(namespace)
            raise

    async def _attempt(self, namespace: str, requests: Sequence[ReservationRequest]) -> None:
        book = self._books.setdefault(namespace, _Book())
        if book.problem is not None:
            raise Transient(book.problem)
        now = self.now
        account = before = book.account or MonthAccount(month=month_of(now))
        removed: Removed = {}
        if account.closed or account.month != month_of(now) or not requests:
            observed, removed = await self.pods.observe(account, namespace)
            *closed, account = settled(account, observed, now)
            for past in closed:
                await self._write(namespace, book, past)
        for request in requests:
            usage = self.usage()
            present = {**usage.namespaces, namespace: book.with_account(namespace, account)}
            if self.gate(request, replace(usage, namespaces=present)):
                account = reserved(account, request, now)
        if account != book.account and (account.marks or account.days):
            await self._write(namespace, book, account)
        self.pods.settled(removed)
        self._report(namespace, before, account)

    async def _write(self, namespace: str, book: _Book, account: MonthAccount) -> None:
        """Write an account in the version that was read. Raises OperatorError."""
        usage = book.objects.get(account.month)
        if usage is None:
            usage = await self.kube.create(records.body_of(namespace, account.month))
            book.objects[account.month] = usage
        written = await self.kube.replace_status(usage, records.status_of(account))
        book.take(account, written, namespace)

    def _report(self, namespace: str, before: MonthAccount, after: MonthAccount) -> None:
        """Wake the jobs whose charged GPU time has become final, and report a change."""
        if after == before:
            return
        final = {
            (namespace, mark.job)
            for key, mark in after.marks.items()
            if training_of(key) is not None
            and mark.gpus
            and mark.ended
            and not (key in before.marks and before.marks[key].ended)
        }
        for key in sorted(final):
            self.wake(key)
        for callback in self.changed:
            callback(namespace)


def _take(book: _Book, usage: Object) -> None:
    """Take an object that was read. One without a status was created, but never written."""
    namespace, month = usage["spec"]["namespace"], Month.parse(usage["spec"]["month"])
    book.objects[month] = usage
    if not usage.get("status"):
        return
    try:
        account = records.parsed(usage)
    except ValueError as error:
        name, cause = usage["metadata"]["name"], " ".join(str(error).split())
        book.problem = f"{FINETUNEUSAGE} {name} cannot be read: {cause}. Correct or delete it"
    else:
        book.take(account, usage, namespace)
