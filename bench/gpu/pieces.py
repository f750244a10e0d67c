"""Make the missing measurements, within a limit of time; the next run continues.

A measurement that the limit interrupts starts again in the next run. What it left in its folder,
such as a prepared volume, is used again.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu.results import FAILED, Results
from bench.training.runs import Failed

Measurement = Callable[[], dict[str, Any]]
INTERRUPTIONS = 3
"""After so many, a measurement counts as failed, so that the others get their turn."""


class OutOfTime(BaseException):
    """The limit of time is reached. No handler of errors may take it for a failed training."""


def run(
    measurements: Mapping[str, Measurement],
    results: Results,
    path: Path,
    *,
    seconds: float | None,
) -> list[str]:
    """Make the missing measurements and save each; return the names of those still missing."""
    try:
        with _limited(seconds):
            for name, measure in measurements.items():
                if name not in results.measured:
                    _make(name, measure, results, path, seconds)
    except OutOfTime:
        pass
    return [name for name in measurements if name not in results.measured]


def _make(
    name: str, measure: Measurement, results: Results, path: Path, seconds: float | None
) -> None:
    print(f"==> {name}", flush=True)
    began = time.monotonic()
    try:
        figures = measure()
    except OutOfTime:
        results.interrupted[name] = results.interrupted.get(name, 0) + 1
        if results.interrupted[name] >= INTERRUPTIONS:
            results.measured[name] = {
                FAILED: f"not finished in {INTERRUPTIONS} pieces of {seconds or 0:.0f} seconds"
            }
        results.save(path)
        raise
    except Failed as failed:
        figures = {FAILED: failed.reason}
        print(failed, flush=True)
    except RuntimeError as error:
        figures = {FAILED: (str(error).splitlines() or [type(error).__name__])[-1]}
        print(error, flush=True)
    results.measured[name] = figures
    results.save(path)
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in this thread after so many seconds."""

    def end(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
