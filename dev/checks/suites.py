"""Run checks and test suites as steps with a log each, and print a summary."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from checks import environment, machine, sharing
from cluster import paths
from cluster.phases import say

RESULTS = paths.CACHE / "tests"
DURATIONS = RESULTS / "durations.json"
"""Seconds of each test file in the last run."""
SLOWEST = 10
# The kernel ends a suite with its parent process, because a leftover suite would disturb the next
# run.
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
BACKGROUND = ("nice", "-n", "10")
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a step; the counts exist for test suites only."""

    name: str
    ok: bool
    seconds: float
    log: Path
    cpu_seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    tests: bool = False


outcomes: list[Outcome] = []
_began: list[machine.Usage] = []
"""The usage of the machine when the run began."""


def command(name: str, words: Sequence[str], *, background: bool = False) -> bool:
    """Run one check; print its output if it fails. background: run at low priority."""
    return _run(name, words, tests=None, extra={}, background=background)


def live(words: Sequence[str], **extra: str) -> int:
    """Run Python with live output and return its exit code; ``extra`` are environment variables."""
    command = [environment.program("python"), *words]
    return subprocess.run(command, cwd=paths.REPO, env=_variables(extra), check=False).returncode


def begin() -> None:
    """Delete the reports and the claimed test files of an earlier run."""
    shutil.rmtree(RESULTS / "claims", ignore_errors=True)
    for report in RESULTS.glob("*.xml"):
        report.unlink(missing_ok=True)
    _began[:] = [machine.usage()]


def shared(suite: str) -> dict[str, str]:
    """Return the variables of pytest processes that share the files of a suite."""
    folder = RESULTS / "claims" / suite
    folder.mkdir(parents=True, exist_ok=True)
    return sharing.variables(folder, DURATIONS)


def pytest(
    name: str,
    places: Sequence[str],
    *,
    background: bool = False,
    python: Sequence[str] = (),
    **extra: str,
) -> bool:
    """Run a test suite of these files and folders; ``extra`` are environment variables.

    background: run at low priority, for tests that only compute. python: the command of another
    interpreter than that of the environment.

    With the variables of ``shared``, pytest runs only files that no other process has claimed.
    """
    present = [place for place in places if (paths.REPO / place).exists()]
    if not present:
        say(f"    {name}: no tests yet")
        return True
    report = RESULTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    words = [*(python or [environment.program("python")]), "-m", "pytest", "-q", "--color=no"]
    words += ["-p", "checks.sharing"]
    words += [f"--junitxml={report}", f"--override-ini=cache_dir={RESULTS / '.pytest' / name}"]
    return _run(name, [*words, *present], tests=report, extra=extra, background=background)


def _run(
    name: str,
    words: Sequence[str],
    *,
    tests: Path | None,
    extra: dict[str, str],
    background: bool,
) -> bool:
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"{name.replace(' ', '-')}.log"
    say(f"==> {name}")
    began = time.monotonic()
    with log.open("wb") as stream:
        running = subprocess.Popen(
            [*ENDS_WITH_PARENT, *(BACKGROUND if background else ()), *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=paths.REPO,
            env=_variables(extra),
        )
        # Unlike wait(), wait4() returns the CPU time, including that of child processes.
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    passed, failed, skipped = _counts(tests) if tests else (0, 0, 0)
    ok = running.returncode == 0
    if tests and not ok and failed == 0:
        # The collection failed or no test ran; no test case shows this failure.
        failed = 1
    outcome = Outcome(
        name=name,
        ok=ok,
        seconds=time.monotonic() - began,
        log=log,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        passed=passed,
        failed=failed,
        skipped=skipped,
        tests=tests is not None,
    )
    with _lock:
        outcomes.append(outcome)
        text = log.read_text(errors="replace").rstrip()
        if ok:
            text = "\n".join(_printed_figures(text)) if tests else ""
        word = "ok" if ok else "FAILED"
        say(f"    {name}: {word} in {outcome.seconds:.1f} s" + (f"\n{text}" if text else ""))
    return ok


def _variables(extra: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **environment.variables(), **extra}


def _printed_figures(log: str) -> list[str]:
    """Return the figures that the tests of a suite printed, and the last line of the output."""
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


def _cases() -> Iterator[tuple[str, str, float]]:
    """Return file, name and seconds of each test of this run, with its setup and teardown."""
    for report in sorted(RESULTS.glob("*.xml")):
        try:
            cases = ElementTree.parse(report).getroot().iter("testcase")
        except (OSError, ElementTree.ParseError):
            continue
        for case in cases:
            file = case.get("classname", "").replace(".", "/") + ".py"
            yield file, case.get("name", ""), float(case.get("time", "0"))


def remember_durations() -> None:
    """Record the duration of each test file, which determines the order in the next run."""
    seconds: dict[str, float] = {}
    for file, _, spent in _cases():
        seconds[file] = seconds.get(file, 0.0) + spent
    if seconds:
        partial = DURATIONS.with_suffix(".partial")
        partial.write_text(json.dumps(sharing.recorded(DURATIONS) | seconds, indent=1))
        partial.replace(DURATIONS)


def slowest() -> None:
    """Print the slowest tests."""
    cases = sorted(_cases(), key=lambda case: -case[2])[:SLOWEST]
    if cases:
        say(f"\nThe {len(cases)} slowest tests")
    for file, name, seconds in cases:
        say(f"  {seconds:7.1f} s  {file}::{name}")


def failed_outside(name: str, error: Exception) -> None:
    """Record a failure of a suite's requirement, so that the summary shows it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"{name.replace(' ', '-')}.log"
    log.write_text(f"{error}\n")
    with _lock:
        outcomes.append(Outcome(name=name, ok=False, seconds=0, log=log, failed=1, tests=True))


def count_pods() -> None:
    """Record the CPU time of the cluster's pods in this run, before the cluster is removed."""
    for began in _began:
        spent = machine.usage().since(began)
        outcomes.append(
            Outcome(name="pods", ok=True, seconds=spent.time, log=RESULTS, cpu_seconds=spent.pods)
        )


def _total() -> str:
    """Return duration and CPU time of the run; all programs on the machine count."""
    spent = machine.usage().since(_began[0])
    steps = sum(outcome.cpu_seconds for outcome in outcomes)
    return (
        f"  {spent.time / 60:.1f} minutes, {spent.busy:,.0f} s of CPU on this machine: "
        f"{steps:,.0f} s of these steps, {spent.busy - steps:,.0f} s of the cluster's daemons, of "
        f"builds and of other programs; the cores were idle for {spent.idle:,.0f} s"
    )


def summary() -> int:
    """Print all steps and the total counts of the suites; return the exit status."""
    say("\nSummary")
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        word = "ok    " if outcome.ok else "FAILED"
        counts = f"  {outcome.passed} passed, {outcome.failed} failed" if outcome.tests else ""
        counts += f", {outcome.skipped} skipped" if outcome.skipped else ""
        where = "" if outcome.ok else f"  {outcome.log}"
        times = f"{outcome.seconds:7.1f} s, {outcome.cpu_seconds:7.1f} s of CPU"
        say(f"  {word} {outcome.name:{width}} {times}{counts}{where}")
    if _began:
        say(_total())
    passed, failed, skipped = (
        sum(getattr(outcome, key) for outcome in outcomes)
        for key in ("passed", "failed", "skipped")
    )
    failed += sum(not outcome.ok and not outcome.tests for outcome in outcomes)
    say(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if all(outcome.ok for outcome in outcomes) else 1
