"""Phases of work with elapsed times, and side-by-side work.

A phase prints one line when it begins and one when it ended, with its seconds. An error that
leaves a phase keeps its name, so that the report at the end can say where it happened.
"""

from __future__ import annotations

import contextlib
import errno
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
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = ClusterError(str(error), hint=way_out(str(error)))
        full.phase = name
        raise full from error
    seconds = time.monotonic() - begin
    finished.append((name, seconds))
    say(f"    {name}: done in {seconds:.1f} s")


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
