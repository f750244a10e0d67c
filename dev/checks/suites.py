"""Running checks and test suites as steps with a log each, and the summary at the end."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from checks import environment
from cluster import paths
from cluster.phases import say
from cluster.shell import TAIL_LINES

RESULTS = paths.CACHE / "tests"
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended; counts only for test suites."""

    name: str
    ok: bool
    seconds: float
    log: Path
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    tests: bool = False


outcomes: list[Outcome] = []


def command(name: str, words: Sequence[str], *, show: bool = True) -> bool:
    """Run one check; its output is shown whole if it fails."""
    return _run(name, words, tests=None, extra={}, show=show)


def pytest(name: str, places: Sequence[str], **extra: str) -> bool:
    """Run a test suite of these files and folders; ``extra`` are environment variables."""
    present = [place for place in places if (paths.REPO / place).exists()]
    if not present:
        say(f"    {name}: no tests yet")
        return True
    report = RESULTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    words = [environment.program("python"), "-m", "pytest", "-q", "--color=no"]
    words += [f"--junitxml={report}", f"--override-ini=cache_dir={RESULTS / '.pytest' / name}"]
    return _run(name, [*words, *present], tests=report, extra=extra, show=True)


def _run(
    name: str, words: Sequence[str], *, tests: Path | None, extra: dict[str, str], show: bool
) -> bool:
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"{name.replace(' ', '-')}.log"
    say(f"==> {name}")
    begin = time.monotonic()
    with log.open("wb") as stream:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=paths.REPO,
            env={**os.environ, **environment.variables(), **extra},
            check=False,
        )
    passed, failed, skipped = _counts(tests) if tests else (0, 0, 0)
    ok = done.returncode == 0
    if tests and not ok and failed == 0:
        # Collection broke, or nothing ran: that is a failure that no test case shows.
        failed = 1
    outcome = Outcome(
        name=name,
        ok=ok,
        seconds=time.monotonic() - begin,
        log=log,
        passed=passed,
        failed=failed,
        skipped=skipped,
        tests=tests is not None,
    )
    with _lock:
        outcomes.append(outcome)
        text = log.read_text(errors="replace").rstrip()
        if ok:
            text = "\n".join(_told(text)) if tests else ""
        elif not show:
            text = "\n".join(text.splitlines()[-TAIL_LINES:])
        word = "ok" if ok else "FAILED"
        say(f"    {name}: {word} in {outcome.seconds:.1f} s" + (f"\n{text}" if text else ""))
    return ok


def _told(log: str) -> list[str]:
    """Return what a suite has to tell: the figures that its tests printed, and its last line."""
    *lines, last = log.splitlines() or [""]
    return [*(line for line in lines if line.startswith("    ")), last]


def _counts(report: Path) -> tuple[int, int, int]:
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        return 0, 0, 0
    if suite is None:
        return 0, 0, 0
    total, failures, errors, skipped = (
        int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
    )
    return max(total - failures - errors - skipped, 0), failures + errors, skipped


def failed_outside(name: str, error: Exception) -> None:
    """Record a failure of what a suite needs, so that the summary shows it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"{name.replace(' ', '-')}.log"
    log.write_text(f"{error}\n")
    with _lock:
        outcomes.append(Outcome(name=name, ok=False, seconds=0, log=log, failed=1, tests=True))


def summary() -> int:
    """Print what ran, then one plain line for the counts of all suites; the exit status."""
    say("\nSummary")
    for outcome in outcomes:
        word = "ok    " if outcome.ok else "FAILED"
        counts = f"  {outcome.passed} passed, {outcome.failed} failed" if outcome.tests else ""
        counts += f", {outcome.skipped} skipped" if outcome.skipped else ""
        where = "" if outcome.ok else f"  {outcome.log}"
        say(f"  {word} {outcome.name:28} {outcome.seconds:7.1f} s{counts}{where}")
    passed, failed, skipped = (
        sum(getattr(outcome, key) for outcome in outcomes)
        for key in ("passed", "failed", "skipped")
    )
    failed += sum(not outcome.ok and not outcome.tests for outcome in outcomes)
    say(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if all(outcome.ok for outcome in outcomes) else 1
