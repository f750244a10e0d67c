"""A Chromium, and the pages of ``ftj ui`` on the cluster of the examples."""

import asyncio
import json
import os
import shutil
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright
from tests.support import example_page
from tests.support.example_page import Objects

from finetune_cli.ui import live
from finetune_cli.ui.app import Application

objects = example_page.objects
PROGRAM = "chromium"
ATTACKER = "attacker.example"
ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name of an attacker that leads to this machine, as after DNS rebinding.
    f"--host-resolver-rules=MAP {ATTACKER} 127.0.0.1",
)
POLL_SECONDS = 0.2
WAIT_MILLISECONDS = 60_000
"""For a machine on which other suites run, too."""


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


EXPECTED = ("401", "ERR_NETWORK_CHANGED")
"""In messages of the console: the login form is the answer to a request without a session, with the
status of that; and pods of the local cluster add network interfaces to the machine, for which
Chromium ends connections. The page opens its stream again."""


class Visitor:
    """A browser window, and what its pages complained about."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(WAIT_MILLISECONDS)
        self.context = context
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append("dialog")
        dialog.dismiss()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(
            text in message.text for text in EXPECTED
        ):
            self.problems.append(message.text)

    def log_in(self, site: Site) -> Page:
        self.page.goto(site.address)
        self.page.get_by_label("One-time code").fill(site.code)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Log out").wait_for()
        return self.page


# Of a module: the event loop of Playwright must not run when another suite uses asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed: as root, run apt-get install {PROGRAM}")
    expect.set_options(timeout=WAIT_MILLISECONDS)
    # Chromium refuses to build its sandbox for root.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *sandbox]) as started,
    ):
        yield started


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
