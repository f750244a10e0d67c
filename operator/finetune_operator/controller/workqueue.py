"""A queue of keys in the manner of client-go's, for one event loop.

* A key that waits is not queued twice; ``add`` of it changes nothing.
* A key is never with two workers: ``add`` during work makes it wait again once the work is done,
  once, however often it was added.
* Of several delays of a key the one that ends first counts; ``add`` ends them all.
* ``retry`` delays by min(cap, base · 2ⁿ), n being the number of retries since ``forget``. Where it
  is told that the server wants to be left alone, not even ``add`` ends that.

Not one method awaits but ``get``: nothing can happen between two statements.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from finetune_operator.telemetry import metrics

K = TypeVar("K", bound=Hashable)


class Timer(Protocol):
    """What ``call_later`` returns."""

    def cancel(self) -> None:
        """Do not call, then."""


def _call_later(seconds: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)


class WorkQueue(Generic[K]):
    """See the module. ``clock`` and ``call_later`` are there to be replaced by tests."""

    def __init__(
        self,
        name: str,
        *,
        base: float = 0.005,
        cap: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] = _call_later,
    ) -> None:
        self._base, self._cap = base, cap
        self._clock, self._call_later = clock, call_later
        self._ready: deque[K] = deque()
        self._queued_at: dict[K, float] = {}
        self._active: dict[K, float] = {}
        self._dirty: set[K] = set()
        self._delayed: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        # controller-runtime names a queue after its controller.
        self._labels = (name, name)
        metrics.QUEUE_DEPTH.labels(*self._labels).set_function(lambda: len(self._ready))
        metrics.UNFINISHED_SECONDS.labels(*self._labels).set_function(lambda: sum(self._ages()))
        metrics.LONGEST_SECONDS.labels(*self._labels).set_function(self.longest)

    def add(self, key: K) -> None:
        """Let a worker take the key as soon as one is free."""
        self._undelay(key)
        if key in self._active:
            self._dirty.add(key)
        elif (early := self._not_before.get(key, 0.0) - self._clock()) > 0:
            self.add_after(key, early)
        elif key not in self._queued_at:
            self._not_before.pop(key, None)
            self._queued_at[key] = self._clock()
            self._ready.append(key)
            metrics.QUEUE_ADDS.labels(*self._labels).inc()
            self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Add the key later, unless it waits already or is due sooner."""
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
        """Add the key after its next, longer delay; return that in seconds.

        at_least: what the server asked for, in seconds; the key is left alone for so long.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2.0 ** 1024 is not a number any more; the cap is reached long before.
        seconds = max(at_least, min(self._cap, self._base * 2.0 ** min(failures, 64)))
        metrics.QUEUE_RETRIES.labels(*self._labels).inc()
        if at_least > 0:
            self._not_before[key] = self._clock() + at_least
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """Let the delays of ``retry`` start over."""
        self._failures.pop(key, None)

    def pop(self) -> K | None:
        """Give out the key that waits longest, None where none does; ``done`` must follow."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        now = self._clock()
        metrics.QUEUE_SECONDS.labels(*self._labels).observe(now - self._queued_at.pop(key))
        self._active[key] = now
        return key

    async def get(self) -> K:
        """Wait for a key; ``done`` must follow."""
        while (key := self.pop()) is None:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                # The wake-up that came together with the cancellation belongs to somebody else.
                if taker.done() and not taker.cancelled():
                    self._wake()
                raise
        return key

    def done(self, key: K) -> None:
        """Take the key back; it waits again if it was added meanwhile."""
        metrics.WORK_SECONDS.labels(*self._labels).observe(self._clock() - self._active.pop(key))
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[K]:
        """Wait for a key and hold it for the time of the block."""
        key = await self.get()
        try:
            yield key
        finally:
            self.done(key)

    def longest(self) -> float:
        """Return for how many seconds the key that is longest in work has been so; 0 if none is."""
        return max(self._ages(), default=0.0)

    def clear(self) -> None:
        """Drop every timer and every key that waits; for the end of the process."""
        for key in list(self._delayed):
            self._undelay(key)
        self._ready.clear()
        self._queued_at.clear()
        self._dirty.clear()
        self._not_before.clear()

    def _ages(self) -> list[float]:
        now = self._clock()
        return [now - since for since in self._active.values()]

    def _undelay(self, key: K) -> None:
        if (delayed := self._delayed.pop(key, None)) is not None:
            delayed[1].cancel()

    def _wake(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
