"""When clients last sent requests, from the metrics of vLLM.

Requests that are running or waiting count as well as those that have ended since the last read. The
clock starts when the verification has passed, so the requests of the verifier do not count.
"""

import math
import re
import time
from collections.abc import Callable

_ENDED = "request_success_total"
_SERIES = re.compile(
    rb"^vllm:(request_success_total|num_requests_running|num_requests_waiting)(?:\{[^\n]*\})? "
    rb"([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]+)?)$",
    re.MULTILINE,
)


class RequestClock:
    """Counts the requests of clients, and measures the time since the last one.

    Both are NaN until ``start``, after ``stop``, and if vLLM does not report its requests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._counted = True
        """Whether vLLM reports its requests."""
        self._ended: float | None = None
        """Requests that had ended at the last read."""
        self._count = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._last, self._counted = self._clock(), True
        self._ended, self._count = None, 0.0

    def stop(self) -> None:
        """Stop the clock, for example because vLLM restarts."""
        self._last = None

    @property
    def count(self) -> float:
        """Number of requests that have ended since the first read."""
        return math.nan if self._last is None or not self._counted else self._count

    @property
    def idle_seconds(self) -> float:
        """Seconds since vLLM last had a request, or since the start."""
        if self._last is None or not self._counted:
            return math.nan
        return self._clock() - self._last

    def observe(self, metrics: bytes | None) -> None:
        """Take the metrics of vLLM into account; None if it did not answer, which is no silence."""
        if self._last is None:
            return
        if metrics is None:
            self._last = self._clock()
            return
        series = [(name.decode(), float(value)) for name, value in _SERIES.findall(metrics)]
        was_counted = self._counted
        before = self._ended if was_counted else None
        self._counted = any(name == _ENDED for name, _ in series)
        self._ended = sum(value for name, value in series if name == _ENDED)
        new = 0.0 if before is None else max(0.0, self._ended - before)
        self._count += new
        under_way = any(value for name, value in series if name != _ENDED)
        if new or under_way or not was_counted:
            self._last = self._clock()
