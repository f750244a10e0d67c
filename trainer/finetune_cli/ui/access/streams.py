"""The open streams of a user: at most one per tab, and few in all."""

import asyncio

MOST_STREAMS = 5


class Streams:
    """Streams of a session by the tab that reads them, each with the event that ends it."""

    def __init__(self, of_user: dict[str, asyncio.Event] | None = None) -> None:
        """``of_user``: the streams of all sessions of the user, None if there is only this one."""
        self._open = {} if of_user is None else of_user
        self._own: dict[str, asyncio.Event] = {}

    def begin(self, tab: str) -> asyncio.Event | None:
        """Return the event that ends a new stream of a tab; None if there are too many.

        An earlier stream of the tab ends: a browser that reconnects has lost it.
        """
        earlier = self._open.pop(tab, None)
        if earlier is not None:
            earlier.set()
        if len(self._open) >= MOST_STREAMS:
            return None
        self._open[tab] = self._own[tab] = asyncio.Event()
        return self._open[tab]

    def end(self, tab: str, event: asyncio.Event) -> None:
        """Forget a stream that has ended."""
        for streams in (self._open, self._own):
            if streams.get(tab) is event:
                del streams[tab]

    def end_all(self) -> None:
        """End the streams of this session."""
        for ended in self._own.values():
            ended.set()
