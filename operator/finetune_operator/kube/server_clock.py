"""The clock of the API server, which dates the scheduling of pods, from its responses."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class ServerClock:
    """Knows the time of the API server; that of this machine before the first response."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._header = ""

    def observe(self, header: str) -> None:
        """Take the header Date of a response, of which only a new value is read."""
        if header in ("", self._header):
            return
        self._header = header
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            # Of a proxy, for example.
            return
        self._offset = date.timestamp() - self._monotonic()

    def now(self) -> int:
        """Return the time in seconds since 1970."""
        return int(self._offset + self._monotonic())
