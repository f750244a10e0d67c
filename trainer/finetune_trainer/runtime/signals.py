"""SIGTERM, from the first line of the process on.

While there is nothing to save, which includes the minutes in which a model is loaded, it ends the
process at once; from the first training step on it is remembered, and the trainer stops at the next
step's end. Ending is an exception, so that what is open is closed; where a library swallows it
(Unsloth does as it is imported), the process is ended without more ado.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType

from finetune_trainer.errors import Stopped

SWALLOWED_SECONDS = 5.0
"""After which a process that should have ended does."""


class StopRequest:
    """Whether someone asked the process to stop."""

    def __init__(self, leave: Callable[[], None] = lambda: None) -> None:
        """Nobody did yet. ``leave``: called where the process has to be ended without more ado."""
        self.requested = False
        self._deferred = False
        self._over = False
        self._leave = leave
        # Of all queues and locks, the one that a signal's handler may use.
        self._raised: SimpleQueue[None] = SimpleQueue()

    def install(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._insist, name="stop", daemon=True).start()

    def ignore(self) -> None:
        """Let nothing interrupt the writing of the result."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._over = True

    def defer(self) -> None:
        """Only remember the signal from now on; who trains asks ``requested`` after each step.

        Raises Stopped where the signal came already.
        """
        self._deferred = True
        if self.requested:
            raise Stopped

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
            self._raised.put(None)
            raise Stopped

    def _insist(self) -> None:
        self._raised.get()
        time.sleep(SWALLOWED_SECONDS)
        if not self._over:
            self._leave()
            os._exit(int(Stopped.code))
