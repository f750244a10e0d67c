"""Server-sent events: the regions of a page, each when it has changed.

The page is read again every few seconds, with the rights of the user at that moment, and nothing of
it is kept for another stream.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from finetune_cli.errors import CommandFailed
from finetune_cli.ui.access.sessions import Session
from finetune_cli.ui.pages import layout
from finetune_cli.ui.pages.layout import Page

POLL_SECONDS = 4.0
TAB = re.compile(r"[A-Za-z0-9_-]{8,64}")
Read = Callable[[], Awaitable[Page]]


async def follow(
    request: web.Request,
    session: Session,
    read: Read,
    valid: Callable[[], bool],
    report: Callable[[Exception], str],
    prefix: str,
) -> web.StreamResponse:
    """Send the regions of a page until the browser or the session ends.

    read: reads the page; report: returns what a user learns of a bug.
    """
    tab = request.query.get("tab", "")
    if not TAB.fullmatch(tab):
        raise web.HTTPBadRequest
    ended = session.streams.begin(tab)
    if ended is None:
        raise web.HTTPTooManyRequests
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    try:
        await response.prepare(request)
        # A browser that is gone is noticed when something is written to it.
        with contextlib.suppress(ConnectionResetError):
            await _send(response, read, ended, valid, report, prefix)
            # A browser connects again if only the session has ended: the proxy in front of this
            # server may send another token. Without one, the browser gets the login.
            if ended.is_set() or valid():
                await response.write(_event("end", ""))
    finally:
        session.streams.end(tab, ended)
    return response


async def _send(
    response: web.StreamResponse,
    read: Read,
    ended: asyncio.Event,
    valid: Callable[[], bool],
    report: Callable[[Exception], str],
    prefix: str,
) -> None:
    sent: dict[str, str] = {}
    while valid() and not ended.is_set():
        try:
            events = _changes(await read(), sent, prefix)
        except CommandFailed as error:
            # The next page shows that the problem is over.
            sent.clear()
            events = [("problem", str(error))]
        except Exception as error:
            # The response has begun: a page of the error would be written into the stream.
            await response.write(_event("problem", report(error)))
            return
        if not valid() or ended.is_set():
            return
        await response.write(b"".join([b":\n\n", *(_event(*event) for event in events)]))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), POLL_SECONDS)


def _changes(page: Page, sent: dict[str, str], prefix: str) -> list[tuple[str, Any]]:
    """Return the events of what has changed, and remember it in ``sent``."""
    events: list[tuple[str, Any]] = []
    if sent.get("") != page.announcement:
        sent[""] = page.announcement
        events.append(("announcement", page.announcement))
    for region in page.regions:
        if not region.live:
            continue
        html = layout.inner(region, prefix)
        version = layout.version(html)
        if sent.get(region.id) != version:
            sent[region.id] = version
            events.append(("region", {"id": region.id, "version": version, "html": html}))
    return events


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
