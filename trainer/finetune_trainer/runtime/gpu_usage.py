"""What a job's training has cost and how often it was begun again: a small file on its volume.

A GPU is held from the moment the pod's process starts, so the clock starts with the process and not
with the first step; less what a process did before, that stages as well (``workstation``). A kill
loses at most what passed since the last write.
"""

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.runtime.files import write_json

KILLED = "killed"
"""How an attempt ended that did not say how: out of host memory, or its node went away."""


def process_age() -> float:
    """Seconds since this process started, imports included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class Usage:
    """GPU seconds so far. ``gpus`` is how many this process holds.

    begun: the age of the process, in seconds, at which it began to hold them.
    """

    def __init__(self, path: Path, *, gpus: int = 1, begun: float = 0.0) -> None:
        """Read what earlier attempts have spent; the last one's end is this one's cause."""
        self._path = path
        self._gpus = gpus
        self._begun = begun
        before = _read(path)
        self._before = _number(before.get("gpuSeconds"))
        found = before.get("retries")
        self.retries: Counter[str] = Counter(found if isinstance(found, dict) else {})
        if before.get("ended"):
            self.retries[str(before["ended"])] += 1
        self._ended: str | None = KILLED
        self._written = 0.0
        self._lock = threading.Lock()

    @property
    def gpu_seconds(self) -> float:
        """Seconds of this and all earlier attempts, times the GPUs held."""
        return self._before + (process_age() - self._begun) * self._gpus

    def record(self, *, at_most_every: float = 0.0) -> float:
        """Write the present figure, unless it was written ``at_most_every`` s ago; return it."""
        with self._lock:
            seconds = self.gpu_seconds
            if seconds >= self._written + at_most_every * self._gpus:
                document = {
                    "gpuSeconds": round(seconds, 1),
                    "retries": dict(self.retries),
                    "ended": self._ended,
                }
                write_json(self._path, document)
                self._written = seconds
            return seconds

    def retry(self, cause: str) -> None:
        """Count that training is begun again within this process."""
        self.retries[cause] += 1
        self.record()

    def ended(self, cause: str | None) -> None:
        """Say how this attempt ends, None for well; another one after it counts by that."""
        self._ended = cause
        self.record()


@contextmanager
def ending(usage: Usage) -> Iterator[None]:
    """Record how the block ends."""
    cause: str | None = "internal_error"
    try:
        yield
        cause = None
    except (TrainerError, Stopped) as ended:
        cause = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", ended.reason).lower()
        raise
    finally:
        # On a full volume the reason is worth more than the count.
        with suppress(OSError):
            usage.ended(cause)


def recorded(path: Path) -> float:
    """GPU seconds in the file; 0 where there is none, or where it is unreadable."""
    return _number(_read(path).get("gpuSeconds"))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
