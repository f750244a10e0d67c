"""The way back to a caller, which reads its answer as slowly as it likes, or not at all.

A request holds its place in the engine, and its bytes, until its answer is accepted. So the whole
answer may keep the gate waiting for a limited time: with a limit for each part, a caller that reads
a little of it from time to time would keep the place of others for hours.
"""

import asyncio
import time

from aiohttp import web

STALLED_SECONDS = 60.0
"""Time for which a request may wait for its caller in all; then it ends and frees its place."""
FITS = 1 << 14
"""Bytes that an empty buffer takes without waiting: asyncio pauses at 64 KiB. A time limit for each
event would cost 12 µs."""


class Left(Exception):
    """The caller has closed its connection."""


class Outlet:
    """Writes a response whose headers are sent. Raises Left, or TimeoutError if it stalls."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request, self._response = request, response
        self._left = STALLED_SECONDS

    async def write(self, data: bytes) -> None:
        """Write the next bytes."""
        transport = self._request.transport
        try:
            if len(data) <= FITS and (transport is None or transport.get_write_buffer_size() == 0):
                await self._response.write(data)
                return
            began = time.monotonic()
            async with asyncio.timeout(self._left):
                await self._response.write(data)
            self._left -= time.monotonic() - began
        except ConnectionError as error:
            raise Left from error

    async def end(self) -> None:
        """End the response. Otherwise aiohttp does, and waits for the caller without a limit."""
        try:
            async with asyncio.timeout(self._left):
                await self._response.write_eof()
        except ConnectionError as error:
            raise Left from error

    def abort(self) -> None:
        """Close the connection at once: the caller then knows that the response is not complete."""
        if self._request.transport is not None:
            self._request.transport.abort()
