"""GPU seconds and retries of one training over all its attempts, in a small file on the volume.

A pod holds its GPU from the start of its process, so the count starts there and not at the first
step. ``local_run`` prepares data in the same process and subtracts that time. A killed process
loses at most the time since the last write.
"""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file, untrusted_json
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.volume.files import write_json

KILLED = "killed"
"""End of an attempt that recorded none: out of host memory, or its node failed."""


def process_age() -> float:
    """Return the age of this process in seconds, imports included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class GpuUsage:
    """GPU seconds of this and all earlier attempts.

    held_since: age of the process, in seconds, when it began to hold the GPU.
    """

    def __init__(self, path: Path, *, held_since: float = 0.0) -> None:
        """Read the totals of earlier attempts, and how the last one ended."""
        self._path = path
        self._held_since = held_since
        before = _read(path)
        self._before = _number(before.get("gpuSeconds"))
        retries = before.get("retries")
        self.retries: Counter[str] = Counter(retries if isinstance(retries, dict) else {})
        if before.get("ended"):
            self.retries[str(before["ended"])] += 1
        self._ended: str | None = KILLED
        self._written = 0.0
        self._lock = threading.Lock()

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds of this and all earlier attempts."""
        return self._before + process_age() - self._held_since

    def record(self, *, at_most_every: float = 0.0) -> float:
        """Write the current total, at most every ``at_most_every`` seconds; return it."""
        with self._lock:
            seconds = self.gpu_seconds
            if seconds >= self._written + at_most_every:
                document = {
                    "gpuSeconds": round(seconds, 1),
                    "retries": dict(self.retries),
                    "ended": self._ended,
                }
                write_json(self._path, document)
                self._written = seconds
            return seconds

    def retry(self, cause: str) -> None:
        """Count a restart of the training within this process."""
        self.retries[cause] += 1
        self.record()

    def ended(self, cause: str | None) -> None:
        """Record how this attempt ends (None: success); the next attempt counts it as its cause."""
        self._ended = cause
        self.record()


@contextmanager
def ending(usage: GpuUsage) -> Iterator[None]:
    """Record how the block ends."""
    cause: str | None = "internal_error"
    try:
        yield
        cause = None
    except (TrainerError, Stopped) as ended:
        cause = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", ended.reason).lower()
        raise
    finally:
        # On a full volume, the original error matters more than this record.
        with suppress(OSError):
            usage.ended(cause)


def recorded(path: Path) -> float:
    """Return the GPU seconds in the file, or 0 if it is missing or unreadable."""
    return _number(_read(path).get("gpuSeconds"))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = untrusted_json.parse(untrusted_file.read_text(path))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
