"""Phases of work with elapsed times, and side-by-side work.

A phase prints one line when it begins and one when it ended, with its seconds. An error that
leaves a phase keeps its name, so that the report at the end can say where it happened.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from cluster.errors import ClusterError
from cluster.shell import way_out

_lock = threading.Lock()
finished: list[tuple[str, float]] = []
quiet = False
HINT = "put right what the system says there; the same command then goes on where it stopped"


def say(text: str) -> None:
    """One line to the person, whole even when threads speak at once."""
    with _lock:
        print(text, file=sys.stderr if quiet else sys.stdout, flush=True)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Announce, time, and label errors."""
    begin = time.monotonic()
    say(f"==> {name}")
    try:
        yield
    except ClusterError as error:
        error.phase = error.phase or name
        raise
    except BrokenPipeError:
        # Nobody reads what is said here; that is no failure of the phase.
        raise
    except OSError as error:
        raise of_the_system(error, name) from error
    seconds = time.monotonic() - begin
    finished.append((name, seconds))
    say(f"    {name}: done in {seconds:.1f} s")


def of_the_system(error: OSError, name: str) -> ClusterError:
    """What the system refused, as a person needs it: it is this machine that must be looked at."""
    refused = ClusterError(f"{type(error).__name__}: {error}", hint=way_out(str(error)) or HINT)
    refused.phase = name
    return refused


def side_by_side(*works: Callable[[], object], lanes: int = 0) -> None:
    """Run all to the end in threads; raise the first error after all have ended.

    They begin in this order. ``lanes`` bounds how many run at a time; 0 means all of them.
    """
    waiting = deque(works)
    errors: list[BaseException] = []

    def lane() -> None:
        while True:
            try:
                work = waiting.popleft()
            except IndexError:
                return
            try:
                work()
            except BaseException as error:
                # Told at once: the others may go on for minutes.
                say(f"    failed: {error}")
                errors.append(error)

    threads = [threading.Thread(target=lane, daemon=True) for _ in works[: lanes or None]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
