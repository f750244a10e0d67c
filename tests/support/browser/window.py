"""A Chromium, and its windows."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright

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
WAIT_MILLISECONDS = 60_000
"""For a machine on which other suites run, too."""
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

    def log_in_with(self, address: str, label: str, secret: str) -> Page:
        """Open the page, and type a secret into the field with this label."""
        self.page.goto(address)
        self.page.get_by_label(label).fill(secret)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Log out").wait_for()
        return self.page


# Of a module: the event loop of Playwright must not run when another suite uses asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run a Chromium."""
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
