"""SIGTERM handling, from the first line of the process.

While there is nothing to save, which includes the minutes of loading a model, SIGTERM ends the
process at once. After ``defer`` the request is only recorded, and the trainer stops at the end of
the current step. The immediate stop is an exception, so that open files are closed. If a library
swallows it, as Unsloth's import does, a watchdog thread ends the process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType

from finetune_trainer.errors import Stopped

FORCED_EXIT_SECONDS = 5.0
"""Time between a swallowed stop and the forced exit."""


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self, on_forced_exit: Callable[[], None] = lambda: None) -> None:
        """``on_forced_exit`` is called before a forced exit."""
        self.requested = False
        self._deferred = False
        self._ended = False
        self._on_forced_exit = on_forced_exit
        # SimpleQueue.put is reentrant: the only queue or lock that a signal handler may use.
        self._raised: SimpleQueue[None] = SimpleQueue()

    def install(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._force_exit, name="stop", daemon=True).start()

    def ignore(self) -> None:
        """Ignore SIGTERM from now on, so that nothing interrupts writing the result."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._ended = True

    def defer(self) -> None:
        """Only record SIGTERM from now on; the caller checks ``requested`` after each step.

        Raise Stopped if a stop was requested before.
        """
        self._deferred = True
        if self.requested:
            raise Stopped

    def end_deferral(self) -> None:
        """Let SIGTERM end the process at once again."""
        self._deferred = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def request(self) -> None:
        """Request a stop, as SIGTERM does."""
        first = not self.requested
        self.requested = True
        if first and not self._deferred:
            self._raised.put(None)
            raise Stopped

    def _force_exit(self) -> None:
        self._raised.get()
        time.sleep(FORCED_EXIT_SECONDS)
        if not self._ended:
            self._on_forced_exit()
            os._exit(int(Stopped.code))
