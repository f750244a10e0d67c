"""Answers of models: a line of JSON for each part, as it arrives from the pod.

Each answer is read by a thread of its own, outside the executor that reads pages, and a daemon: a
model that does not answer delays neither a page nor the end of the program.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Generator

from aiohttp import web

from finetune_cli.cluster.chat_api import Interruption
from finetune_cli.errors import CommandFailed
from finetune_cli.ui.access.sessions import Session

STREAM = "answer"
"""A user has one answer at a time: another question ends the earlier one."""
POLL_SECONDS = 0.25
"""How long a browser that is gone is not noticed, while no part arrives."""
MOST_WAITING = 64
"""Parts that are read ahead of a slow browser."""
Ask = Callable[[Interruption], Generator[str, None, None]]


async def send(
    request: web.Request,
    session: Session,
    ask: Ask,
    valid: Callable[[], bool],
    report: Callable[[Exception], str],
) -> web.StreamResponse:
    """Send the parts until the end, another question, or the end of the browser or of the session.

    ask: yields the parts. valid: whether the session has not ended. report: returns what a user
    learns of a bug.
    """
    ended = session.streams.begin(STREAM)
    if ended is None:
        raise web.HTTPTooManyRequests
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    parts = _Parts(ask)

    def is_over() -> bool:
        gone = request.transport is None or request.transport.is_closing()
        return gone or ended.is_set() or not valid()

    try:
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            try:
                while (part := await parts.next(is_over)) is not None:
                    await response.write(_line("text", part))
            except CommandFailed as error:
                await response.write(_line("problem", str(error)))
            except ConnectionError:
                raise
            except Exception as error:
                await response.write(_line("problem", report(error)))
    finally:
        session.streams.end(STREAM, ended)
        parts.end()
    return response


class _Parts:
    """The parts of an answer, which a thread reads."""

    def __init__(self, ask: Ask) -> None:
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(MOST_WAITING)
        self._interruption = Interruption()
        threading.Thread(target=self._work, args=(ask,), daemon=True).start()

    async def next(self, is_over: Callable[[], bool]) -> str | None:
        """Return the next part; None after the last one, or as soon as nobody waits for it."""
        while not is_over():
            try:
                part = await asyncio.wait_for(self._read.get(), POLL_SECONDS)
            except TimeoutError:
                continue
            self._room.release()
            if isinstance(part, Exception):
                raise part
            return part
        return None

    def end(self) -> None:
        """End the thread, also one that waits for the pod."""
        self._interruption.interrupt()
        self._room.release()

    def _work(self, ask: Ask) -> None:
        try:
            with contextlib.closing(ask(self._interruption)) as parts:
                for part in parts:
                    self._room.acquire()
                    if self._interruption.is_set:
                        return
                    self._put(part)
            self._put(None)
        except Exception as error:
            self._put(error)

    def _put(self, part: str | Exception | None) -> None:
        # The loop is closed if the program ends meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._read.put_nowait, part)


def _line(name: str, text: str) -> bytes:
    return json.dumps({name: text}).encode() + b"\n"
