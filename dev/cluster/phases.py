"""Phases of work with their durations, and parallel work.

A phase prints a line when it begins and a line with its duration when it ends. An error in a phase
is labeled with its name for the final report.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context

from cluster.errors import ClusterError
from cluster.shell import known_fix

_lock = threading.Lock()
finished: list[tuple[str, float]] = []
"""Names and seconds of the ended phases that have no phases inside them."""
_inside: ContextVar[list[str]] = ContextVar("_inside")
"""Names of the ended phases inside the present one."""
quiet = False
HINT = "fix the cause of the system error, then run the same command again to resume"


def say(text: str) -> None:
    """Print a line, without mixing the output of threads."""
    with _lock:
        print(text, file=sys.stderr if quiet else sys.stdout, flush=True)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Print begin, end and duration of the phase, and label its errors."""
    begin = time.monotonic()
    say(f"==> {name}")
    parts: list[str] = []
    enclosing = _inside.set(parts)
    try:
        yield
    except ClusterError as error:
        error.phase = error.phase or name
        raise
    except BrokenPipeError:
        # The reader closed the pipe; the phase itself did not fail.
        raise
    except OSError as error:
        raise from_os_error(error, name) from error
    finally:
        _inside.reset(enclosing)
    seconds = time.monotonic() - begin
    record(name, seconds, whole=not parts)
    say(f"    {name}: done in {seconds:.1f} s")


def record(name: str, seconds: float, *, whole: bool = True) -> None:
    """Record the end of a phase inside the present one. whole: whether it had none inside it."""
    _inside.get([]).append(name)
    if whole:
        finished.append((name, seconds))


def from_os_error(error: OSError, name: str) -> ClusterError:
    """Return the ClusterError for a system error in a phase, with a hint."""
    failure = ClusterError(f"{type(error).__name__}: {error}", hint=known_fix(str(error)) or HINT)
    failure.phase = name
    return failure


def side_by_side(*works: Callable[[], object], lanes: int = 0) -> None:
    """Run all works in threads, started in this order; raise the first error when all have ended.

    ``lanes`` limits how many run at a time; 0 means no limit.
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
                # Report immediately: the others can run for minutes.
                say(f"    failed: {error}")
                errors.append(error)

    # A context can run in one thread at a time.
    contexts = [copy_context() for _ in works[: lanes or None]]
    threads = [
        threading.Thread(target=context.run, args=(lane,), daemon=True) for context in contexts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
