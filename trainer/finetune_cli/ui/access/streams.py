"""The open streams of a session: at most one per tab, and few in all."""

import asyncio

MOST_STREAMS = 5


class Streams:
    """Streams by the tab that reads them, each with the event that ends it."""

    def __init__(self) -> None:
        """No stream is open."""
        self._open: dict[str, asyncio.Event] = {}

    def begin(self, tab: str) -> asyncio.Event | None:
        """Return the event that ends a new stream of a tab; None if there are too many.

        An earlier stream of the tab ends: a browser that reconnects has lost it.
        """
        earlier = self._open.pop(tab, None)
        if earlier is not None:
            earlier.set()
        if len(self._open) >= MOST_STREAMS:
            return None
        self._open[tab] = asyncio.Event()
        return self._open[tab]

    def end(self, tab: str, event: asyncio.Event) -> None:
        """Forget a stream that has ended."""
        if self._open.get(tab) is event:
            del self._open[tab]

    def end_all(self) -> None:
        """End all streams."""
        for ended in self._open.values():
            ended.set()
