"""Keys that are queued later.

If a key is delayed twice, the earlier time and the higher priority count.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol

from finetune_operator.workqueue.fair_queue import K, Priority


class Timer(Protocol):
    """A call in the future."""

    def cancel(self) -> None:
        """Cancel the call."""


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Takes a delay in seconds and the function to call after it."""


def on_event_loop(seconds: float, callback: Callable[[], None]) -> Timer:
    """Call a function on the running event loop after a delay."""
    return asyncio.get_running_loop().call_later(seconds, callback)


class _Delay(NamedTuple):
    due: float
    priority: Priority
    timer: Timer


class DelayedKeys(Generic[K]):
    """``queue`` is called with each key and its priority when its delay has passed."""

    def __init__(self, queue: Callable[[K, Priority], None], call_later: CallLater) -> None:
        self._queue, self._call_later = queue, call_later
        self._delays: dict[K, _Delay] = {}

    def add(self, key: K, priority: Priority, *, now: float, seconds: float) -> None:
        """Queue a key after a delay."""
        due = now + seconds
        if (delay := self._delays.get(key)) is not None:
            priority = min(priority, delay.priority)
            if delay.due <= due:
                self._delays[key] = delay._replace(priority=priority)
                return
            delay.timer.cancel()
        timer = self._call_later(seconds, lambda: self._queue(key, self._delays[key].priority))
        self._delays[key] = _Delay(due, priority, timer)

    def cancel(self, key: K) -> None:
        """Do not queue a key later."""
        if (delay := self._delays.pop(key, None)) is not None:
            delay.timer.cancel()

    def clear(self) -> None:
        """Cancel all delays."""
        for key in list(self._delays):
            self.cancel(key)
