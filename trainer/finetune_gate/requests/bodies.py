"""The bodies of requests, which callers send as slowly and in as large numbers as they like."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from finetune_gate.errors import NotRead

LONGEST = 1 << 20
"""Bytes of a body."""
MOST_BYTES = 32 << 20
"""Bytes of all bodies together, until their requests end. Parsing needs several times as much."""
READ_SECONDS = 30.0
"""Time in which a body must arrive."""


class Bodies:
    """Counts the bytes of all bodies, from their arrival until their requests have ended."""

    def __init__(self) -> None:
        self.held = 0

    @contextmanager
    def request(self) -> Iterator["Body"]:
        """Count the body that is read within the block until its end."""
        body = Body(self)
        try:
            yield body
        finally:
            self.held -= body.size


class Body:
    """The body of one request."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    async def read(self, request: web.Request) -> bytes:
        """Return the body. Raise NotRead."""
        body = bytearray()
        try:
            async with asyncio.timeout(READ_SECONDS):
                async for data in request.content.iter_any():
                    self.size += len(data)
                    self._bodies.held += len(data)
                    if self.size > LONGEST:
                        raise NotRead(413, f"the body of a request has at most {LONGEST} bytes")
                    if self._bodies.held > MOST_BYTES:
                        raise NotRead(503, "too many requests: retry later")
                    body += data
        except TimeoutError:
            raise NotRead(
                408, f"the body of the request did not arrive within {READ_SECONDS:g} seconds"
            ) from None
        return bytes(body)
