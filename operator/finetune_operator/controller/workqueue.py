"""A work queue of keys for one event loop, modeled on that of client-go.

A key is a tuple that starts with a namespace.

* A queued key is not queued twice: ``add`` has no effect on it.
* A key is never processed by two workers: ``add`` during its processing queues it once more after
  ``done``, however often it is called.
* Of several delays of a key, the earliest counts; ``add`` cancels it.
* ``retry`` delays a key by min(cap, base · 2ⁿ), where n is the number of retries since ``forget``.
  A minimum delay that the server requested is not shortened by ``add``.
* Namespaces take turns: however many keys one of them has, each other namespace gets the next key
  processed after at most one key of every namespace with queued keys.
* ``namespace_limit`` keys of a namespace are processed at once; further ones wait, and the keys of
  other namespaces pass them.

Only ``get`` awaits, so every other method is atomic.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from finetune_operator.telemetry import metrics

K = TypeVar("K", bound=tuple[str, *tuple[object, ...]])


class Timer(Protocol):
    """The handle that ``call_later`` returns."""

    def cancel(self) -> None:
        """Cancel the call."""


def _call_later(seconds: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)


class WorkQueue(Generic[K]):
    """See the module. Tests replace ``clock`` and ``call_later``."""

    def __init__(
        self,
        name: str,
        *,
        base: float = 0.005,
        cap: float = 60.0,
        namespace_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] = _call_later,
    ) -> None:
        self._base, self._cap, self._limit = base, cap, namespace_limit
        self._clock, self._call_later = clock, call_later
        self._ready: OrderedDict[str, deque[K]] = OrderedDict()
        """Queued keys by namespace; the namespace whose turn is next is the first."""
        self._queued_at: dict[K, float] = {}
        self._active: dict[K, float] = {}
        self._active_in: Counter[str] = Counter()
        self._dirty: set[K] = set()
        self._delayed: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        # controller-runtime names a queue after its controller.
        self._labels = (name, name)
        metrics.QUEUE_DEPTH.labels(*self._labels).set_function(lambda: len(self._queued_at))
        metrics.UNFINISHED_SECONDS.labels(*self._labels).set_function(lambda: sum(self._ages()))
        metrics.LONGEST_SECONDS.labels(*self._labels).set_function(self.longest)

    def add(self, key: K) -> None:
        """Queue the key for the next free worker."""
        self._undelay(key)
        if key in self._active:
            self._dirty.add(key)
        elif (remaining := self._not_before.get(key, 0.0) - self._clock()) > 0:
            self.add_after(key, remaining)
        elif key not in self._queued_at:
            self._not_before.pop(key, None)
            self._queued_at[key] = self._clock()
            self._ready.setdefault(key[0], deque()).append(key)
            metrics.QUEUE_ADDS.labels(*self._labels).inc()
            self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Queue the key after a delay, unless it is queued or due earlier."""
        if key in self._queued_at or key in self._dirty:
            return
        due = self._clock() + seconds
        if key in self._delayed and self._delayed[key][0] <= due:
            return
        self._undelay(key)
        if seconds <= 0:
            self.add(key)
        else:
            self._delayed[key] = (due, self._call_later(seconds, lambda: self.add(key)))

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Queue the key after its backoff; return the delay in seconds.

        at_least: minimum delay that the server requested, in seconds.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2.0 ** 1024 overflows; the cap is reached long before.
        seconds = max(at_least, min(self._cap, self._base * 2.0 ** min(failures, 64)))
        metrics.QUEUE_RETRIES.labels(*self._labels).inc()
        if at_least > 0:
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
        keys = self._ready[namespace]
        key = keys.popleft()
        if keys:
            self._ready.move_to_end(namespace)
        else:
            del self._ready[namespace]
        now = self._clock()
        metrics.QUEUE_SECONDS.labels(*self._labels).observe(now - self._queued_at.pop(key))
        self._active[key] = now
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
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
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
        self._queued_at.clear()
        self._dirty.clear()
        self._not_before.clear()

    def _may_work_for(self, namespace: str) -> bool:
        return self._limit is None or self._active_in[namespace] < self._limit

    def _ages(self) -> list[float]:
        now = self._clock()
        return [now - since for since in self._active.values()]

    def _undelay(self, key: K) -> None:
        if (delayed := self._delayed.pop(key, None)) is not None:
            delayed[1].cancel()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
