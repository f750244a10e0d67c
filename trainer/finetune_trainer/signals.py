"""SIGTERM, from the first line of the process on.

Until there is something to save it ends the process at once; while a training step is under way it
is remembered, and the trainer stops at the next step's end.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune_trainer.errors import Stopped


class StopRequest:
    """Whether someone asked the process to stop."""

    def __init__(self) -> None:
        """Nobody did yet."""
        self.requested = False
        self._deferred = False

    def install(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def ignore(self) -> None:
        """Let nothing interrupt the writing of the result."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only remember the signal within this block; whoever runs inside asks ``requested``."""
        if self.requested:
            raise Stopped("stopped before anything had to be saved")
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def request(self) -> None:
        """Ask for the stop, as SIGTERM does."""
        first = not self.requested
        self.requested = True
        if first and not self._deferred:
            raise Stopped("stopped before anything had to be saved")
