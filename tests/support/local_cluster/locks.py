"""Locks for the resources that lanes of the end-to-end tests share: operator and GPUs of the node.

Two pytest processes can use one cluster. By default, each file shares the operator and the GPUs
with the other lane; a file can change this with ``LOCKS``. A test that kills the operator, or that
needs a node with exactly one GPU, locks the resource exclusively. The kernel releases the locks
when a process ends, so a killed run leaves no locks.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, Literal

from cluster import paths

OPERATOR, GPUS, LANES = "operator", "gpus", "lanes"
ORDER = (OPERATOR, GPUS)
"""The order in which a file takes its locks. A fixed order prevents a deadlock between lanes."""
How = Literal["shared", "alone"]
USUAL: Mapping[str, How] = {OPERATOR: "shared", GPUS: "shared"}
_held: dict[str, IO[bytes]] = {}


@contextmanager
def held(wanted: Mapping[str, How]) -> Iterator[None]:
    """Hold locks during the block."""
    with ExitStack() as stack:
        for name in sorted(wanted, key=ORDER.index):
            stack.enter_context(shared(name) if wanted[name] == "shared" else alone(name))
        yield


@contextmanager
def shared(name: str) -> Iterator[None]:
    """Hold a shared lock during the block; wait while another lane holds it exclusively."""
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
    """Hold an exclusive lock during the block; a shared lock of this lane is suspended.

    A waiting lane is next: no other lane gets a new shared lock meanwhile.
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
    """Report whether no other lane holds a shared lock that this lane holds."""
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
