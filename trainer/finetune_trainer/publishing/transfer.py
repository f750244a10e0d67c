"""Progress of a target, and the points at which its transfer may stop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune_trainer.errors import Stopped
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.runtime.signals import StopRequest

PAUSES = (0.0, 1.0, 4.0, 15.0, 30.0)
"""Seconds before each retry in a row without progress; after the last one the target fails."""
LONGEST_PAUSE = 60.0
"""Seconds; servers may ask for any ``Retry-After``."""
_POLL = 0.2


@dataclass(kw_only=True)
class Transfer:
    """The transfer of one target: bytes count twice, when they are stored and when read back."""

    progress: Progress
    stop: StopRequest
    done: int
    """Bytes of earlier targets."""
    total: int
    """Bytes of all targets."""
    sent: int = field(default=0, init=False)
    """Bytes that this process has sent."""
    _stored: int = field(default=0, init=False)
    _read_back: int = field(default=0, init=False)

    def check(self) -> None:
        """Raise Stopped if the process should end."""
        if self.stop.requested:
            raise Stopped(
                "stopped by SIGTERM; the next attempt sends only what the targets do not hold yet"
            )

    def sending(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield chunks that are sent, and count them."""
        for chunk in chunks:
            yield chunk
            self.sent += len(chunk)

    def stored(self, count: int) -> None:
        """Record that the target holds more bytes."""
        self._stored += count
        self._record()

    def read_back(self, count: int) -> None:
        """Record that more bytes of the target were compared."""
        self._read_back += count
        self._record()
        self.check()

    def pause(self, seconds: float) -> None:
        """Wait. Raise Stopped if the process should end."""
        until = time.monotonic() + min(seconds, LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL))
        self.check()

    def _record(self) -> None:
        self.progress.uploaded(self.done + self._stored, self.total)
        before = 2 * self.done
        self.progress.ratio((before + self._stored + self._read_back) / (2 * self.total or 1))
