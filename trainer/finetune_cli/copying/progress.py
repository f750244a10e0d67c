"""Shows the progress of a copy: one line that changes on a terminal, log lines elsewhere."""

import sys
import time
from collections.abc import Iterable

from finetune_api.durations import duration
from finetune_api.safety.redaction import Canvas
from finetune_trainer.checkpointing.manifest import Entry
from finetune_trainer.runtime.log import log

TERMINAL_SECONDS = 0.5
LOG_SECONDS = 10.0
GIB = 1 << 30


class CopyProgress:
    """Counts bytes, and prints share, rate and remaining time."""

    def __init__(self, files: Iterable[Entry]) -> None:
        """``files`` are those to copy."""
        self._total = sum(file.size for file in files)
        self._done = 0
        self._received = 0
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = self._started

    def add(self, count: int) -> None:
        """Record that ``count`` bytes arrived."""
        self._done += count
        self._received += count
        now = time.monotonic()
        if now - self._shown >= (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            self._shown = now
            self._show()

    def remaining(self, files: Iterable[Entry]) -> None:
        """Record the files that are not complete yet; a broken file starts again."""
        self._done = self._total - sum(file.size for file in files)

    def end(self) -> None:
        """Show the final state."""
        self._show()
        if self._terminal:
            print(file=sys.stderr)

    def _show(self) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._received / elapsed
        left = (self._total - self._done) / rate if rate else None
        share = 100 * self._done // self._total if self._total else 100
        text = (
            f"{self._done / GIB:.2f} of {self._total / GIB:.2f} GiB, {share} %, "
            f"{rate / (1 << 20):.0f} MiB/s, {duration(left)} left"
        )
        if self._terminal:
            print(f"\r\033[K{text}", end="", file=Canvas(sys.stderr), flush=True)
        else:
            log(text)
