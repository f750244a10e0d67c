"""Bodies of requests and of answers, which callers send and accept as slowly as they like.

Their memory has a limit, of which an API key takes a share: one that fills it delays no other.
The callers without a key cannot be distinguished: together they leave a part to those with one.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from finetune_gate.errors import NotRead
from finetune_gate.keys import ANONYMOUS, Caller

LONGEST = 1 << 20
"""Bytes of the body of a request."""
MOST_BYTES = 64 << 20
"""Bytes of all bodies of requests, until these have ended. Parsing needs several times as much."""
LONGEST_ANSWER = 16 << 20
"""Bytes of an answer that is no stream. A token with 20 log-probabilities has 2 KB."""
MOST_ANSWER_BYTES = 128 << 20
"""Bytes of all such answers, until the callers have accepted them."""
SHARES = 4
"""API keys that fill a limit together."""
READ_SECONDS = 30.0
"""Time in which the body of a request must arrive."""


class BodyTooLong(Exception):
    """A body has more bytes than one may have."""


class NoRoom(Exception):
    """The bodies of a caller, or of all callers, have more bytes than they may have together."""


class Bodies:
    """Counts the bytes of all bodies, from their arrival until nothing of them is held."""

    def __init__(self, *, longest: int, most: int) -> None:
        """``longest``: bytes of one body. ``most``: of all together."""
        self.longest, self.most = longest, most
        self.held = 0
        self._of_callers: dict[Caller, int] = {}

    @contextmanager
    def of(self, caller: Caller) -> Iterator["Body"]:
        """Count the body that is read within the block until its end."""
        body = Body(self, caller)
        try:
            yield body
        finally:
            body.keep(0)

    def add(self, caller: Caller, count: int) -> None:
        """Count further bytes of a caller, or fewer. They count although they may be too many."""
        self.held += count
        total = self._of_callers.get(caller, 0) + count
        if total:
            self._of_callers[caller] = total
        else:
            self._of_callers.pop(caller, None)

    def has_room(self, caller: Caller) -> bool:
        """Report whether neither a caller nor all callers have more bytes than they may have."""
        own, share = self._of_callers.get(caller, 0), self.most // SHARES
        may_have = self.most - share if caller == ANONYMOUS else share
        return own <= may_have and self.held <= self.most


class Body:
    """One body."""

    def __init__(self, bodies: Bodies, caller: Caller) -> None:
        self._bodies, self._caller = bodies, caller
        self._size = 0

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """Return all bytes of a stream. Raise BodyTooLong or NoRoom."""
        data = bytearray()
        async for part in content.iter_any():
            self.keep(self._size + len(part))
            if self._size > self._bodies.longest:
                raise BodyTooLong
            if not self._bodies.has_room(self._caller):
                raise NoRoom
            data += part
        return bytes(data)

    def keep(self, size: int) -> None:
        """Record how many bytes are held from now on in place of those that were read."""
        self._bodies.add(self._caller, size - self._size)
        self._size = size


async def of_request(request: web.Request, body: Body) -> bytes:
    """Return the body of a request. Raise NotRead."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await body.read(request.content)
    except BodyTooLong:
        raise NotRead(413, f"the body of a request has at most {LONGEST} bytes") from None
    except NoRoom:
        raise NotRead(503, "too many requests: retry later") from None
    except TimeoutError:
        raise NotRead(
            408, f"the body of the request did not arrive within {READ_SECONDS:g} seconds"
        ) from None
