"""Answers of models: a line of JSON for each part, as it arrives from the pod."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Generator

from aiohttp import web

from finetune_cli.errors import CommandFailed
from finetune_cli.ui.access.sessions import Session

STREAM = "answer"
"""A session has one answer at a time: another question ends the earlier one."""
Parts = Generator[str, None, None]


async def send(
    request: web.Request, session: Session, parts: Parts, report: Callable[[Exception], str]
) -> web.StreamResponse:
    """Send the parts until the end, until the browser is gone, or until another question.

    report: returns what a user learns of a bug.
    """
    ended = session.streams.begin(STREAM)
    if ended is None:
        raise web.HTTPTooManyRequests
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            try:
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    if ended.is_set():
                        break
                    await response.write(_line("text", part))
            except CommandFailed as error:
                await response.write(_line("problem", str(error)))
            except ConnectionError:
                raise
            except Exception as error:
                await response.write(_line("problem", report(error)))
    finally:
        session.streams.end(STREAM, ended)
        # The thread of a request that is cancelled still runs the generator, and ends it.
        with contextlib.suppress(ValueError):
            await asyncio.to_thread(parts.close)
    return response


def _line(name: str, text: str) -> bytes:
    return json.dumps({name: text}).encode() + b"\n"
