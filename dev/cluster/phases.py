"""Phases of work with elapsed times, and side-by-side work.

A phase prints one line when it begins and one when it ended, with its seconds. An error that
leaves a phase keeps its name, so that the report at the end can say where it happened.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from cluster.errors import ClusterError

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
    seconds = time.monotonic() - begin
    finished.append((name, seconds))
    say(f"    {name}: done in {seconds:.1f} s")


def side_by_side(*works: Callable[[], object]) -> None:
    """Run all to the end in threads; raise the first error after all have ended."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            # Told at once: the others may go on for minutes.
            say(f"    failed: {error}")
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
