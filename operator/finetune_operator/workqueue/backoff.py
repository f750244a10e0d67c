"""Delays after failures: the n-th one in a row waits min(cap, base · 2ⁿ), where n starts at 0."""

from typing import Generic

from finetune_operator.workqueue.fair_queue import K


class Backoff(Generic[K]):
    """The number of failures of each key since the last success."""

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
