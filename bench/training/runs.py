"""Run trainings as processes and time them by the arrival of their log lines.

Nothing is measured within a process, so the trainer's command and plain scripts are measured alike.
"""

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.training.workload import Prepared

CHILD = Path(__file__).with_name("child.py")
IN_FLOAT32 = "-float32"
"""Suffix of a plain script whose adapter is in float32, as ours is."""
WARM_UP = 2
"""Steps to skip: caches fill, kernels are chosen."""
MADE = ("adapter", "checkpoints", "reference", "plain")
ENVIRONMENT = {
    # The trainer's own setting (finetune_trainer.runtime.pod_limits), for plain scripts, too.
    "OMP_WAIT_POLICY": "PASSIVE",
    "FINETUNE_METRICS_PORT": "off",
    "HF_HUB_OFFLINE": "1",
}


class Failed(Exception):
    """A training failed; ``reason``: its last message."""

    def __init__(self, command: str, log: Sequence[str]) -> None:
        """``log``: its log lines."""
        said = [line for line in log if " failed: " in line]
        self.reason = (said or list(log[-1:]) or ["no output"])[-1].partition(" failed: ")[2]
        super().__init__("\n".join([f"{command} failed:", *log[-40:]]))


@dataclass(frozen=True, kw_only=True)
class Run:
    """Times of one process, in seconds since its start, without those in which it stood still."""

    imported: float
    """The libraries are imported; the base is loaded next."""
    loaded: float
    """The model is loaded."""
    steps: tuple[float, ...]
    """End of each step, before its checkpoint."""
    losses: tuple[float, ...]
    """Losses of the steps, with the printed precision."""
    peak: int | None
    """Peak GPU memory in bytes."""
    log: tuple[str, ...]

    def intervals(self) -> list[float]:
        """Return the seconds between steps, without the warm-up."""
        return [after - before for before, after in pairwise(self.steps[WARM_UP - 1 :])]


class Training:
    """A training process that runs only while it is advanced."""

    def __init__(self, who: str, prepared: Prepared, *, cap: int | None = None) -> None:
        """Start the process. who: ours, trl or unsloth; the latter optionally ``IN_FLOAT32``."""
        self._command = [sys.executable, str(CHILD), who, str(prepared.config), str(prepared.work)]
        self._command += [str(cap)] if cap else []
        result = {"FINETUNE_TERMINATION_LOG": str(prepared.work / "result")}
        self._elapsed = 0.0
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | ENVIRONMENT | result,
        )
        self._moments: dict[str, float] = {}
        self._steps: list[float] = []
        self._losses: list[float] = []
        self._peak: int | None = None
        self._log: list[str] = []

    def advance(self, until: int | None = None) -> None:
        """Let the process run to the end of a step, or to its own end. Raise Failed."""
        self._process.send_signal(signal.SIGCONT)
        began = time.monotonic() - self._elapsed
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._read(line, time.monotonic() - began) and len(self._steps) == until:
                self._process.send_signal(signal.SIGSTOP)
                self._elapsed = time.monotonic() - began
                return
        if self._process.wait() or until is not None or not self._steps:
            raise Failed(" ".join(self._command), self._log)

    def kill(self) -> None:
        """Kill the process; without effect if it has ended."""
        self._process.kill()
        self._process.communicate()

    def result(self) -> Run:
        """Return the times so far."""
        return Run(
            imported=self._moments["loading the base model"],
            loaded=self._moments["trainable parameters"],
            steps=tuple(self._steps),
            losses=tuple(self._losses),
            peak=self._peak,
            log=tuple(self._log),
        )

    def _read(self, line: str, now: float) -> bool:
        """Record a log line and its moment; report whether a step ended."""
        self._log.append(line.rstrip())
        for moment in ("loading the base model", "trainable parameters"):
            if moment in line:
                self._moments.setdefault(moment, now)
        if match := re.match(r"peak (\d+)$", line):
            self._peak = int(match[1])
        if match := re.search(r"step \d+/\d+ loss (\S+)", line):
            self._steps.append(now)
            self._losses.append(float(match[1]))
        return match is not None


def run(
    who: str,
    prepared: Prepared,
    *,
    cap: int | None = None,
    fresh: bool = True,
    kill_at: int | None = None,
) -> Run:
    """Train in a process, from the beginning or (not fresh) from the last checkpoint.

    kill_at: the step after which the process is killed. Raise Failed.
    """
    if fresh:
        _remove_results(prepared)
    training = Training(who, prepared, cap=cap)
    try:
        training.advance(until=kill_at)
    finally:
        training.kill()
    return training.result()


def in_turns(order: Sequence[str], prepared: Prepared, *, steps: int) -> dict[str, Run]:
    """Run trainings from the beginning that take turns after each step, and kill them.

    At any moment, one process runs and the others stand still. The load of the machine changes
    more slowly than the turns, so it affects all of them alike. Raise Failed.
    """
    _remove_results(prepared)
    with ExitStack() as started:
        trainings = {}
        for step in range(1, steps + 1):
            for who in order:
                if step == 1:
                    trainings[who] = Training(who, prepared)
                    started.callback(trainings[who].kill)
                trainings[who].advance(until=step)
    return {who: training.result() for who, training in trainings.items()}


def _remove_results(prepared: Prepared) -> None:
    for name in MADE:
        shutil.rmtree(prepared.work / name, ignore_errors=True)


def median(runs: Sequence[Run]) -> float:
    """Return the median seconds between steps over several runs."""
    return statistics.median(interval for run in runs for interval in run.intervals())
