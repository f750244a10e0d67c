"""Keys for the workers of one event loop, modeled on the work queue of client-go.

* A key is never processed by two workers: ``add`` during its processing queues it once more after
  ``done``, however often it is called.
* ``namespace_limit`` keys of a namespace are processed at once; further ones wait, and the keys of
  other namespaces pass them.
* ``add`` cancels a delay, but not that of the rate limit, and not one that the server requested.

``fair_queue`` has the order of the queued keys. ``delayed_keys`` queues keys later; ``backoff`` and
``rate_limit`` say how much later. Only ``get`` awaits, so every other method is atomic.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic

from finetune_operator import delays
from finetune_operator.rate_limit import RateLimit
from finetune_operator.telemetry import metrics
from finetune_operator.workqueue.backoff import Backoff
from finetune_operator.workqueue.delayed_keys import CallLater, DelayedKeys, on_event_loop
from finetune_operator.workqueue.fair_queue import FairQueue, K, Priority


class WorkQueue(Generic[K]):
    """Queued, delayed and active keys, and their metrics. Tests replace the time."""

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
        call_later: CallLater = on_event_loop,
    ) -> None:
        self._limit, self._clock = namespace_limit, clock
        self._ready: FairQueue[K] = FairQueue()
        self._delayed: DelayedKeys[K] = DelayedKeys(self.add, call_later)
        self._backoff: Backoff[K] = Backoff(base, cap)
        self._rate: RateLimit[K] = RateLimit(interval=interval, burst=burst)
        self._not_before: dict[K, float] = {}
        """Until when the server requested to wait, for keys that are not queued since then."""
        self._active: dict[K, float] = {}
        self._active_in: Counter[str] = Counter()
        self._again: dict[K, Priority] = {}
        """Keys that were added during their processing."""
        self._permits = asyncio.Semaphore(0)
        """At least one for each key that may be processed; a worker may find no key."""
        # controller-runtime names a queue after its controller.
        self._labels = (name, name)
        metrics.QUEUE_DEPTH.labels(*self._labels).set_function(self._ready.__len__)
        metrics.UNFINISHED_SECONDS.labels(*self._labels).set_function(lambda: sum(self._ages()))
        metrics.LONGEST_SECONDS.labels(*self._labels).set_function(self.longest)

    def add(self, key: K, priority: Priority = Priority.EVENT) -> None:
        """Queue the key for the next free worker, or raise its priority."""
        self._delayed.cancel(key)
        now = self._clock()
        allowed_at = max(self._rate.allowed_at(key), self._not_before.get(key, 0.0))
        if key in self._active:
            self._again[key] = min(priority, self._again.get(key, priority))
        elif key in self._ready:
            self._ready.add(key, priority, now)
        elif allowed_at > now:
            self._delayed.add(key, priority, now=now, seconds=allowed_at - now)
        else:
            self._ready.add(key, priority, now)
            self._not_before.pop(key, None)
            self._permits.release()
            metrics.QUEUE_ADDS.labels(*self._labels).inc()

    def add_after(self, key: K, seconds: float, priority: Priority = Priority.EVENT) -> None:
        """Queue the key after a delay; if it is queued earlier anyway, raise its priority."""
        if seconds <= 0 or key in self._ready or key in self._again:
            self.add(key, priority)
        else:
            self._delayed.add(key, priority, now=self._clock(), seconds=seconds)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Queue the key after its backoff; return the delay in seconds.

        at_least: minimum delay that the server requested, in seconds.
        """
        seconds = max(at_least, self._backoff.next(key))
        metrics.QUEUE_RETRIES.labels(*self._labels).inc()
        self._not_before[key] = self._clock() + at_least
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """Reset the backoff of ``retry``."""
        self._backoff.forget(key)

    def pop(self) -> K | None:
        """Return the next key, None if none may be processed; the caller must call ``done``."""
        queued = self._ready.pop(self._is_below_limit)
        if queued is None:
            return None
        key, since = queued
        now = self._active[key] = self._clock()
        self._active_in[key[0]] += 1
        self._rate.count(key, now)
        metrics.QUEUE_SECONDS.labels(*self._labels).observe(now - since)
        return key

    async def get(self) -> K:
        """Wait for a key; the caller must call ``done``."""
        while True:
            await self._permits.acquire()
            if (key := self.pop()) is not None:
                return key

    def done(self, key: K) -> None:
        """End the processing of a key; it is queued again if it was added in the meantime."""
        metrics.WORK_SECONDS.labels(*self._labels).observe(self._clock() - self._active.pop(key))
        self._active_in[key[0]] -= 1
        if not self._active_in[key[0]]:
            del self._active_in[key[0]]
        if (priority := self._again.pop(key, None)) is not None:
            self.add(key, priority)
        # The worker that had the permit of another key of the namespace may have met the limit.
        self._permits.release()

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
        self._delayed.clear()
        self._ready.clear()
        self._again.clear()
        self._not_before.clear()

    def _is_below_limit(self, namespace: str) -> bool:
        return self._limit is None or self._active_in[namespace] < self._limit

    def _ages(self) -> list[float]:
        now = self._clock()
        return [now - since for since in self._active.values()]
