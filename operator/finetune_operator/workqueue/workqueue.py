"""A work queue of keys for one event loop, modeled on that of client-go.

A key is a tuple that starts with a namespace.

* A queued key is not queued twice: adding it again can only raise its priority.
* A key is never processed by two workers: ``add`` during its processing queues it once more after
  ``done``, however often it is called.
* Of several delays of a key, the earliest counts, with the highest of their priorities; ``add``
  cancels it.
* ``retry`` delays a key by min(cap, base · 2ⁿ), where n is the number of retries since ``forget``.
  A minimum delay that the server requested is not shortened by ``add``.
* Namespaces take turns: however many keys one of them has, the next key of each other namespace is
  processed after at most one key of every namespace with queued keys.
* Within a namespace, a key is processed before keys of a lower ``Priority``, unless these have been
  queued for some seconds longer (``HEAD_START_SECONDS``): no key waits forever.
* ``namespace_limit`` keys of a namespace are processed at once; further ones wait, and the keys of
  other namespaces pass them.
* A key is processed ``burst`` times in succession, then once per ``interval`` seconds: an endless
  loop of edits costs no more than that. Without ``interval`` there is no limit.

Only ``get`` awaits, so every other method is atomic.
"""

import asyncio
import itertools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum, auto
from heapq import heappop, heappush
from typing import Generic, NamedTuple, Protocol, TypeVar

from finetune_operator import delays
from finetune_operator.telemetry import metrics

K = TypeVar("K", bound=tuple[str, *tuple[object, ...]])


class Priority(IntEnum):
    """Why a key is queued, the most urgent reason first."""

    NEW = auto()
    """A job that was not reconciled before."""
    EVENT = auto()
    """A change, after which a job may continue, for example on a GPU."""
    POLL = auto()
    """A status that is updated from time to time."""


HEAD_START_SECONDS = {Priority.NEW: 0.0, Priority.EVENT: 2.0, Priority.POLL: 60.0}
"""How much earlier a key must have been queued to be processed before one of priority NEW. If the
queue is long, polls would otherwise delay the reconciles after which a job continues."""


class Timer(Protocol):
    """The handle that ``call_later`` returns."""

    def cancel(self) -> None:
        """Cancel the call."""


def _call_later(seconds: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)


class _Delay(NamedTuple):
    due: float
    timer: Timer
    priority: Priority


class WorkQueue(Generic[K]):
    """See the module. Tests replace ``clock`` and ``call_later``."""

    def __init__(
        self,
        name: str,
        *,
        base: float = delays.RETRY_BASE,
        cap: float = delays.RETRY_CAP,
        namespace_limit: int | None = None,
        interval: float = 0.0,
        burst: int = 1,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] = _call_later,
    ) -> None:
        self._base, self._cap, self._limit = base, cap, namespace_limit
        self._interval, self._burst = interval, burst
        self._clock, self._call_later = clock, call_later
        self._ready: OrderedDict[str, list[tuple[float, int, K]]] = OrderedDict()
        """Heap of queued keys by namespace; the namespace whose turn is next is the first.

        An entry that ``_queued`` does not have is void: its key was queued with a higher priority.
        """
        self._queued: dict[K, tuple[float, int]] = {}
        self._queued_at: dict[K, float] = {}
        self._entries = itertools.count()
        self._active: dict[K, float] = {}
        self._active_in: Counter[str] = Counter()
        self._dirty: dict[K, Priority] = {}
        self._delayed: dict[K, _Delay] = {}
        self._arrivals: OrderedDict[K, float] = OrderedDict()
        """When a key that keeps to the interval would be processed next, by last processing."""
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        # controller-runtime names a queue after its controller.
        self._labels = (name, name)
        metrics.QUEUE_DEPTH.labels(*self._labels).set_function(lambda: len(self._queued_at))
        metrics.UNFINISHED_SECONDS.labels(*self._labels).set_function(lambda: sum(self._ages()))
        metrics.LONGEST_SECONDS.labels(*self._labels).set_function(self.longest)

    def add(self, key: K, priority: Priority = Priority.EVENT) -> None:
        """Queue the key for the next free worker."""
        self._undelay(key)
        if key in self._active:
            self._dirty[key] = min(priority, self._dirty.get(key, priority))
        elif (remaining := self._wait(key)) > 0:
            self.add_after(key, remaining, priority)
        else:
            self._enqueue(key, priority)

    def add_after(self, key: K, seconds: float, priority: Priority = Priority.EVENT) -> None:
        """Queue the key after a delay, or raise its priority if it is queued or due earlier."""
        if key in self._queued:
            self._enqueue(key, priority)
            return
        if key in self._dirty:
            self._dirty[key] = min(priority, self._dirty[key])
            return
        due = self._clock() + seconds
        if (delayed := self._delayed.get(key)) is not None:
            priority = min(priority, delayed.priority)
            if delayed.due <= due:
                self._delayed[key] = delayed._replace(priority=priority)
                return
        self._undelay(key)
        if seconds <= 0:
            self.add(key, priority)
        else:
            timer = self._call_later(seconds, lambda: self.add(key, self._delayed[key].priority))
            self._delayed[key] = _Delay(due, timer, priority)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Queue the key after its backoff; return the delay in seconds.

        at_least: minimum delay that the server requested, in seconds.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2.0 ** 1024 overflows; the cap is reached long before.
        seconds = max(at_least, min(self._cap, self._base * 2.0 ** min(failures, 64)))
        metrics.QUEUE_RETRIES.labels(*self._labels).inc()
        self._not_before[key] = self._clock() + at_least
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """Reset the backoff of ``retry``."""
        self._failures.pop(key, None)

    def pop(self) -> K | None:
        """Return the next key, None if none may be processed; the caller must call ``done``."""
        namespace = next((each for each in self._ready if self._may_work_for(each)), None)
        if namespace is None:
            return None
        entries = self._ready[namespace]
        *rank, key = heappop(entries)
        assert self._queued.pop(key) == tuple(rank), "the first entry of a namespace must be queued"
        self._drop_void(namespace)
        if namespace in self._ready:
            self._ready.move_to_end(namespace)
        now = self._clock()
        metrics.QUEUE_SECONDS.labels(*self._labels).observe(now - self._queued_at.pop(key))
        self._active[key] = now
        self._record_arrival(key, now)
        self._active_in[namespace] += 1
        return key

    async def get(self) -> K:
        """Wait for a key; the caller must call ``done``."""
        while (key := self.pop()) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # A wake-up at the moment of the cancellation is passed to another waiter.
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                raise
        return key

    def done(self, key: K) -> None:
        """End the processing of a key; it is queued again if it was added in the meantime."""
        metrics.WORK_SECONDS.labels(*self._labels).observe(self._clock() - self._active.pop(key))
        self._active_in[key[0]] -= 1
        if not self._active_in[key[0]]:
            del self._active_in[key[0]]
        if (priority := self._dirty.pop(key, None)) is not None:
            self.add(key, priority)
        if key[0] in self._ready:
            # Its namespace may have been at the limit.
            self._wake()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[K]:
        """Wait for a key, and call ``done`` at the end of the block."""
        key = await self.get()
        try:
            yield key
        finally:
            self.done(key)

    def longest(self) -> float:
        """Return the longest time in seconds that a key has been processed; 0 if none is."""
        return max(self._ages(), default=0.0)

    def clear(self) -> None:
        """Remove all queued and delayed keys."""
        for key in list(self._delayed):
            self._undelay(key)
        self._ready.clear()
        self._queued.clear()
        self._queued_at.clear()
        self._dirty.clear()
        self._not_before.clear()

    def _enqueue(self, key: K, priority: Priority) -> None:
        """Queue a key, or raise the priority of a queued one."""
        rank = (self._clock() + HEAD_START_SECONDS[priority], next(self._entries))
        known = self._queued.get(key)
        if known is not None and known <= rank:
            return
        self._queued[key] = rank
        heappush(self._ready.setdefault(key[0], []), (*rank, key))
        if known is None:
            self._not_before.pop(key, None)
            self._queued_at[key] = self._clock()
            metrics.QUEUE_ADDS.labels(*self._labels).inc()
            self._wake()

    def _drop_void(self, namespace: str) -> None:
        """Remove void entries from the head of a namespace's heap, and an empty heap."""
        entries = self._ready[namespace]
        while entries and self._queued.get(entries[0][2]) != entries[0][:2]:
            heappop(entries)
        if not entries:
            del self._ready[namespace]

    def _wait(self, key: K) -> float:
        """Return the seconds until a key may be processed, 0 or less if it may be now."""
        allowed = self._arrivals.get(key, 0.0) - (self._burst - 1) * self._interval
        return max(allowed, self._not_before.get(key, 0.0)) - self._clock()

    def _record_arrival(self, key: K, now: float) -> None:
        """Count the processing of a key towards its limit, and forget keys that are far from it."""
        if not self._interval:
            return
        self._arrivals[key] = max(now, self._arrivals.get(key, 0.0)) + self._interval
        self._arrivals.move_to_end(key)
        # An arrival is at most burst intervals ahead of the last processing.
        while (oldest := next(iter(self._arrivals))) and self._arrivals[oldest] <= now:
            del self._arrivals[oldest]

    def _may_work_for(self, namespace: str) -> bool:
        return self._limit is None or self._active_in[namespace] < self._limit

    def _ages(self) -> list[float]:
        now = self._clock()
        return [now - since for since in self._active.values()]

    def _undelay(self, key: K) -> None:
        if (delayed := self._delayed.pop(key, None)) is not None:
            delayed.timer.cancel()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
