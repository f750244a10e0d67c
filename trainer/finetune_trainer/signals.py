"""SIGTERM, from the first line of the process on.

While there is nothing to save, which includes the minutes in which a model is loaded, it ends the
process at once; from the first training step on it is remembered, and the trainer stops at the next
step's end.
"""

import signal
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

    def defer(self) -> None:
        """Only remember the signal from now on; who trains asks ``requested`` after each step.

        Raises Stopped where the signal came already.
        """
        self._deferred = True
        if self.requested:
            raise Stopped("stopped before anything had to be saved")

    def heed(self) -> None:
        """Let the signal end the process at once again."""
        self._deferred = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def request(self) -> None:
        """Ask for the stop, as SIGTERM does."""
        first = not self.requested
        self.requested = True
        if first and not self._deferred:
            raise Stopped("stopped before anything had to be saved")
