"""A Chromium, and the pages of ``ftj ui`` on the cluster of the examples."""

import asyncio
import copy
import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from kubernetes import client as kubernetes_client
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright

from clidocs import (
    example_cluster,
    example_endpoints,
    example_jobs,
    example_objects,
    example_schema,
)
from finetune_cli.cluster import job
from finetune_cli.cluster.api import Cluster
from finetune_cli.ui import live
from finetune_cli.ui.access.sessions import Sessions
from finetune_cli.ui.app import Application

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
ALL_JOBS = "/apis/finetune.dev/v1alpha1/finetunejobs"
POLL_SECONDS = 0.2
WAIT_MILLISECONDS = 60_000
"""For a machine on which other suites run, too."""
Objects = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Pages that are served, and the API server behind them."""

    application: Application
    address: str
    """With a slash at its end."""
    api: str

    @property
    def code(self) -> str:
        return self.application.sessions.code

    def change(self, path: str, patch: dict[str, Any]) -> None:
        """Change an object of the cluster by a merge patch."""
        body = json.dumps(patch).encode()
        urllib.request.urlopen(
            urllib.request.Request(f"{self.api}{path}", body, method="PATCH"), timeout=10
        ).close()


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
        # The login form is the answer to a request without a session, with the status of that.
        if message.type in ("error", "warning") and "401" not in message.text:
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
def objects() -> Objects:
    """Return the objects of the cluster; a change before ``site`` takes effect."""
    found = copy.deepcopy(
        {
            **example_objects.COLLECTIONS,
            **example_endpoints.COLLECTIONS,
            **example_schema.COLLECTIONS,
        }
    )
    found[ALL_JOBS] = found[example_objects.JOBS]
    return found


@pytest.fixture
def site(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(live, "POLL_SECONDS", POLL_SECONDS)
    with served(objects) as started:
        yield started


@contextmanager
def served(objects: Objects) -> Iterator[Site]:
    """Serve the pages in a thread, on a cluster with these objects."""
    frozen = mock.patch.object(job, "now", return_value=example_jobs.NOW)
    with frozen, example_cluster.serving(objects) as api:
        settings = kubernetes_client.Configuration()
        settings.host, settings.retries = api, False
        cluster = Cluster(
            api=kubernetes_client.ApiClient(settings),
            namespace=example_jobs.NAMESPACE,
            context="demo",
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            begun = asyncio.run_coroutine_threadsafe(_start(cluster), loop).result(30)
            application, runner, port = begun
            address = f"http://127.0.0.1:{port}{application.prefix}/"
            yield Site(application=application, address=address, api=api)
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _start(cluster: Cluster) -> tuple[Application, web.AppRunner, int]:
    hosts: list[str] = []
    application = Application(
        sessions=Sessions(), client_of=lambda request: cluster, hosts=hosts, prefix="/a-random-path"
    )
    runner = web.AppRunner(application.build(), shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = int(runner.addresses[0][1])
    hosts.append(f"127.0.0.1:{port}")
    return application, runner, port
