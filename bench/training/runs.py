"""Run trainings as processes and time them by the arrival of their log lines.

Nothing is measured within a process, so the trainer's command and plain scripts are measured alike.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
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
    """Times of one process, in seconds since its start."""

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


def run(
    who: str,
    prepared: Prepared,
    *,
    cap: int | None = None,
    fresh: bool = True,
    kill_at: int | None = None,
) -> Run:
    """Train in a process, from the beginning or (not fresh) from the last checkpoint.

    who: ours, trl or unsloth; the latter two optionally with ``IN_FLOAT32``. kill_at: the step
    after which the process is killed. Raise Failed.
    """
    if fresh:
        for name in MADE:
            shutil.rmtree(prepared.work / name, ignore_errors=True)
    command = [sys.executable, str(CHILD), who, str(prepared.config), str(prepared.work)]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *([str(cap)] if cap else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ENVIRONMENT | {"FINETUNE_TERMINATION_LOG": str(prepared.work / "result")},
    )
    moments: dict[str, float] = {}
    steps: list[float] = []
    losses: list[float] = []
    peak: int | None = None
    killed = False
    log: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        now = time.monotonic() - began
        log.append(line.rstrip())
        if found := re.search(r"step (\d+)/\d+ loss (\S+)", line):
            steps.append(now)
            losses.append(float(found[2]))
            if int(found[1]) == kill_at:
                process.kill()
                killed = True
        for moment in ("loading the base model", "trainable parameters"):
            if moment in line:
                moments.setdefault(moment, now)
        if found := re.match(r"peak (\d+)$", line):
            peak = int(found[1])
    if (process.wait() and not killed) or not steps:
        raise Failed(" ".join(command), log)
    return Run(
        imported=moments["loading the base model"],
        loaded=moments["trainable parameters"],
        steps=tuple(steps),
        losses=tuple(losses),
        peak=peak,
        log=tuple(log),
    )


def median(runs: Sequence[Run]) -> float:
    """Return the median seconds between steps over several runs."""
    return statistics.median(interval for each in runs for interval in each.intervals())
