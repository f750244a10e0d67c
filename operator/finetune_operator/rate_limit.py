"""A limit of how often something happens, for each key: a token bucket. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_KEYS = 4096
"""Of more keys, the limit forgets those that it has counted least recently."""


class RateLimit(Generic[K]):
    """A key is counted ``burst`` times in succession, then once per ``interval`` seconds.

    Without an interval there is no limit.
    """

    def __init__(self, *, interval: float, burst: int) -> None:
        self._interval, self._burst = interval, burst
        self._arrivals: OrderedDict[K, float] = OrderedDict()
        """When a key that keeps to the interval would be counted next, the latest key last."""

    def allowed_at(self, key: K) -> float:
        """Return the time from which a key may be counted."""
        return self._arrivals.get(key, 0.0) - (self._burst - 1) * self._interval

    def count(self, key: K, now: float) -> None:
        """Count a key, and forget keys that are far from their limit."""
        self._arrivals[key] = max(now, self._arrivals.get(key, 0.0)) + self._interval
        self._arrivals.move_to_end(key)
        # An arrival is at most burst intervals ahead of the time at which its key was counted.
        while self._arrivals and (
            next(iter(self._arrivals.values())) <= now or len(self._arrivals) > MOST_KEYS
        ):
            self._arrivals.popitem(last=False)

    def take(self, key: K, now: float) -> bool:
        """Count a key if it may be counted now; report whether it was."""
        allowed = self.allowed_at(key) <= now
        if allowed:
            self.count(key, now)
        return allowed

    def __len__(self) -> int:
        """Return the number of keys that are remembered."""
        return len(self._arrivals)
