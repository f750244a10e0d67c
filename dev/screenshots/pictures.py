"""Opens ``ftj ui`` in Chromium, as a user does, and draws what the window shows."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, expect, sync_playwright

from cluster import paths
from cluster.demo import quickstart
from cluster.errors import NotReady
from screenshots import demo

FOLDER = paths.REPO / "docs" / "assets"
COLORS = 128
"""Of the palette: enough for text, states and curves, and a third of the bytes."""
MOST_BYTES = 150_000
"""For readers on slow networks, and for the size of the repository."""
WINDOW: ViewportSize = {"width": 1200, "height": 760}
MOST_HEIGHT = 1150
MARGIN = 15
"""Less than the distance to the next region."""
ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DARK = "job"
"""The picture of the README has a variant for dark screens."""
WAIT_MILLISECONDS = 60_000
"""For a machine whose cores train models."""
QUESTION = "What is the Debian package nginx?"
ANSWER_MILLISECONDS = 300_000
"""vLLM answers slowly on a CPU."""


def draw(kubeconfig: Path, folder: Path, variables: Mapping[str, str]) -> None:
    """Draw all pictures into a folder. Raises NotReady."""
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with _browser() as browser, _served(kubeconfig, variables) as (address, code):
        page = browser.new_context(viewport=WINDOW, color_scheme="light").new_page()
        page.goto(address)
        page.get_by_label("One-time code").fill(code)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Log out").wait_for()
        for name in _views(page, address):
            _draw(page, folder / f"page-{name}.png")
            if name == DARK:
                page.emulate_media(color_scheme="dark")
                _draw(page, folder / f"page-{name}-dark.png")
                page.emulate_media(color_scheme="light")


def _draw(page: Page, file: Path) -> None:
    write(page.screenshot(full_page=True, clip=_clip(page)), file)
    print(file)


def write(picture: bytes, file: Path) -> None:
    """Write a picture with a palette. Raises NotReady if it is too large for the documentation."""
    drawn = Image.open(io.BytesIO(picture)).convert("RGB")
    drawn.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise NotReady(
            f"{file} has {size} bytes, more than {MOST_BYTES}", hint="make WINDOW smaller"
        )


def _views(page: Page, address: str) -> Iterator[str]:
    """Yield the name of each picture when the window shows it."""
    team, endpoint = f"jobs/{demo.NAMESPACE}", f"endpoints/{demo.NAMESPACE}/{demo.ENDPOINT}"
    for name, path in (
        ("jobs", f"?namespace={demo.NAMESPACE}"),
        ("job", f"{team}/{demo.JOB}"),
        ("endpoint", endpoint),
        ("usage", "usage"),
    ):
        page.goto(f"{address}{path}")
        expect(page.locator("#connection")).to_have_text("live")
        # End-to-end tests leave usage on the same cluster.
        rows = page.locator("tbody tr", has=page.locator("th", has_text=re.compile("^e2e-")))
        rows.evaluate_all("rows => rows.forEach(row => row.remove())")
        yield name
    _plan(page, address)
    yield "plan"
    _ask(page, f"{address}jobs/{quickstart.NAMESPACE}/{quickstart.NAME}/playground")
    yield "playground"


def _clip(page: Page) -> FloatRect:
    """Return the part of the page with its first regions, as far as they are not too high."""
    bottoms = "regions => regions.map(region => region.getBoundingClientRect().bottom)"
    ends = page.locator("main section").evaluate_all(bottoms)
    height = max(end for end in ends if end < MOST_HEIGHT) + MARGIN
    return {"x": 0, "y": 0, "width": WINDOW["width"], "height": height}


def _plan(page: Page, address: str) -> None:
    """Fill the form of a new job, and show its plan."""
    page.goto(f"{address}new")
    for name, value in demo.FORM.items():
        page.locator(f"input[name='{name}']").fill(value)
    page.locator("select[name=profile]").select_option(demo.PROFILE)
    # Only pods reach the hub of the local cluster.
    page.locator("input[name=download]").uncheck()
    page.get_by_role("button", name="Show manifest and plan").click()
    page.locator("#plan").wait_for()


def _ask(page: Page, address: str) -> None:
    """Ask a model, and wait for its complete answer. Raises NotReady."""
    page.goto(address)
    page.get_by_label("Question").fill(QUESTION)
    page.keyboard.press("Enter")
    outcome = page.locator("#outcome")
    problem = page.locator("#outcome.problem")
    outcome.filter(has_text="Answered in").or_(problem).wait_for(timeout=ANSWER_MILLISECONDS)
    if problem.count():
        raise NotReady(f"the model does not answer: {problem.text_content()}")


@contextmanager
def _served(kubeconfig: Path, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run ``ftj ui`` within the block, and yield its address and its code."""
    command = ["-m", "finetune_cli", "ui", "--kubeconfig", str(kubeconfig), "-o", "json"]
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.rstrip().endswith("}"):
                line = process.stdout.readline()
                if not line:
                    raise NotReady("ftj ui has ended", hint="read its message above")
                text += line
            announced = json.loads(text)
            yield announced["address"], announced["code"]
        finally:
            process.terminate()


@contextmanager
def _browser() -> Iterator[Browser]:
    # Chromium refuses to build its sandbox for root.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*ARGUMENTS, *sandbox]
        ) as browser,
    ):
        yield browser
