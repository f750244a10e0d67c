"""What a job's training has cost, over all attempts: a small file on its volume.

A GPU is held from the moment the pod's process starts, so the clock starts with the process and not
with the first step. A kill loses at most what passed since the last write.
"""

import json
import os
import threading
import time
from pathlib import Path

from finetune_trainer.manifest import write_json


def process_age() -> float:
    """Seconds since this process started, imports included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class Usage:
    """GPU seconds so far. ``gpus`` is how many this process holds."""

    def __init__(self, path: Path, *, gpus: int = 1) -> None:
        """Read what earlier attempts have spent."""
        self._path = path
        self._gpus = gpus
        self._before = recorded(path)
        self._written = 0.0
        self._lock = threading.Lock()

    @property
    def gpu_seconds(self) -> float:
        """Seconds of this and all earlier attempts, times the GPUs held."""
        return self._before + process_age() * self._gpus

    def record(self, *, at_most_every: float = 0.0) -> float:
        """Write the present figure, unless it was written ``at_most_every`` s ago; return it."""
        with self._lock:
            seconds = self.gpu_seconds
            if seconds >= self._written + at_most_every * self._gpus:
                write_json(self._path, {"gpuSeconds": round(seconds, 1)})
                self._written = seconds
            return seconds


def recorded(path: Path) -> float:
    """GPU seconds in the file; 0 where there is none, or where it is unreadable."""
    try:
        return float(json.loads(path.read_text())["gpuSeconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
