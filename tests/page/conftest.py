"""A browser, and the pages of ``ftj ui`` on the cluster of the examples."""

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from playwright.sync_api import Browser, Page
from tests.support import example_page
from tests.support.browser import window
from tests.support.example_page import Objects

from finetune_cli.ui import live
from finetune_cli.ui.app import Application

browser = window.browser
objects = example_page.objects
POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Site:
    """Pages that are served, and the API server behind them."""

    application: Application
    address: str
    """With a slash at its end."""
    api: str

    @property
    def code(self) -> str:
        return example_page.user_of(self.application).code

    def change(self, path: str, patch: dict[str, Any]) -> None:
        """Change an object of the cluster by a merge patch."""
        body = json.dumps(patch).encode()
        urllib.request.urlopen(
            urllib.request.Request(f"{self.api}{path}", body, method="PATCH"), timeout=10
        ).close()


class Visitor(window.Visitor):
    """A browser window of the user of ``ftj ui``."""

    def log_in(self, site: Site) -> Page:
        return self.log_in_with(site.address, "One-time code", site.code)


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    with browser.new_context() as context:
        yield Visitor(context)


@pytest.fixture
def site(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(live, "POLL_SECONDS", POLL_SECONDS)
    with served(objects) as started:
        yield started


@contextmanager
def served(objects: Objects) -> Iterator[Site]:
    """Serve the pages of a user on a cluster with these objects."""
    with (
        example_page.cluster_of(objects) as cluster,
        in_thread(lambda origin: example_page.application(cluster, [origin])) as (started, address),
    ):
        yield Site(application=started, address=address, api=cluster.api.configuration.host)


@contextmanager
def in_thread(make: Callable[[str], Application]) -> Iterator[tuple[Application, str]]:
    """Serve an application in a thread; yield it, and its address. make: takes its origin."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        application, runner, origin = asyncio.run_coroutine_threadsafe(_start(make), loop).result(
            30
        )
        yield application, f"{origin}{application.prefix}/"
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(make: Callable[[str], Application]) -> tuple[Application, web.AppRunner, str]:
    listener = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    application = make(origin)
    runner = web.AppRunner(application.build(), shutdown_timeout=2)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return application, runner, origin
