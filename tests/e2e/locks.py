"""What lanes of the end-to-end tests share: the operator and the node's GPUs.

Two pytest processes may work on one cluster. Each file shares the operator and the GPUs with the
other lane, unless it says otherwise in ``LOCKS``; a test that kills the operator, or needs a node
with exactly one GPU, has that to itself. Locks are files that the kernel unlocks when a process
ends, so a killed run leaves none behind.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, Literal

from cluster import paths

OPERATOR, GPUS, LANES = "operator", "gpus", "lanes"
ORDER = (OPERATOR, GPUS)
"""In which order a file takes its locks; with one order no two lanes wait for each other."""
How = Literal["shared", "alone"]
USUAL: Mapping[str, How] = {OPERATOR: "shared", GPUS: "shared"}
_held: dict[str, IO[bytes]] = {}


@contextmanager
def held(wanted: Mapping[str, How]) -> Iterator[None]:
    """Hold locks for the length of a block."""
    with ExitStack() as stack:
        for name in sorted(wanted, key=ORDER.index):
            stack.enter_context(shared(name) if wanted[name] == "shared" else alone(name))
        yield


@contextmanager
def shared(name: str) -> Iterator[None]:
    """Share something with other lanes for the length of a block; wait while one has it alone."""
    with _file(name) as file:
        with _turnstile(name):
            fcntl.flock(file, fcntl.LOCK_SH)
        _held[name] = file
        try:
            yield
        finally:
            del _held[name]


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Have something alone for the length of a block; a share of this lane is suspended.

    Who waits here is next: no other lane gets a new share meanwhile.
    """
    with ExitStack() as stack:
        file = _held.get(name) or stack.enter_context(_file(name))
        fcntl.flock(file, fcntl.LOCK_UN)
        with _turnstile(name):
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_SH)


def is_last(name: str) -> bool:
    """Report whether no other lane has a share of what this lane shares."""
    try:
        fcntl.flock(_held[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _turnstile(name: str) -> Iterator[None]:
    with _file(f"{name}-turnstile") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file(name: str) -> IO[bytes]:
    folder = paths.CACHE / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"e2e-{name}.lock").open("wb")
