"""How soon a key may be processed again."""

from collections import OrderedDict
from typing import Generic

from finetune_operator.workqueue.fair_queue import K


class Backoff(Generic[K]):
    """The delay after the n-th failure in a row is min(cap, base · 2ⁿ), where n starts at 0."""

    def __init__(self, base: float, cap: float) -> None:
        self._base, self._cap = base, cap
        self._failures: dict[K, int] = {}

    def next(self, key: K) -> float:
        """Count a failure of a key; return the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2.0 ** 1024 overflows; the cap is reached long before.
        return min(self._cap, self._base * 2.0 ** min(failures, 64))

    def forget(self, key: K) -> None:
        """Start again with the shortest delay."""
        self._failures.pop(key, None)


class RateLimit(Generic[K]):
    """A key is processed ``burst`` times in succession, then once per ``interval`` seconds.

    Without an interval there is no limit.
    """

    def __init__(self, interval: float, burst: int) -> None:
        self._interval, self._burst = interval, burst
        self._arrivals: OrderedDict[K, float] = OrderedDict()
        """When a key that keeps to the interval would be processed next, by last processing."""

    def allowed_at(self, key: K) -> float:
        """Return the time from which a key may be processed."""
        return self._arrivals.get(key, 0.0) - (self._burst - 1) * self._interval

    def record(self, key: K, now: float) -> None:
        """Count the processing of a key, and forget keys that are far from their limit."""
        self._arrivals[key] = max(now, self._arrivals.get(key, 0.0)) + self._interval
        self._arrivals.move_to_end(key)
        # An arrival is at most burst intervals ahead of the last processing.
        while self._arrivals and next(iter(self._arrivals.values())) <= now:
            self._arrivals.popitem(last=False)
