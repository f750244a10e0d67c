"""One trainer at a time writes to a volume.

The lock is the kernel's (flock on ``lock.json``): it ends with the process that holds it, however
that ends, so no lock can be left behind. The file names the holder for those who find it held; a
name that nobody holds is what a killed trainer left, and is written over.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from io import TextIOWrapper

from finetune_trainer.errors import Transient
from finetune_trainer.runtime.progress import log
from finetune_trainer.runtime.volume_errors import volume_errors_named
from finetune_trainer.volume_layout import Layout

WAIT_SECONDS = 600.0
"""How long the pod before this one may take to end, its last checkpoint included."""
RETRY_SECONDS = 1.0
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def held(layout: Layout, command: str, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the volume within this block.

    Raises Transient, naming the holder, where another process still holds it after ``wait``
    seconds; VolumeFull where not even the lock's file can be made.
    """
    with volume_errors_named(layout.work, "it was locked"):
        layout.work.mkdir(parents=True, exist_ok=True)
        file = open(layout.lock, "a+", encoding="utf-8")  # noqa: SIM115
    with file:
        if _acquire(file, wait=wait):
            stale = _owner(file)
            if stale:
                log(f"the volume's last holder, {stale}, did not end in order: taking over")
        _name(file, _own_name(command))
        try:
            yield
        finally:
            _name(file, "")


def _acquire(file: TextIOWrapper, *, wait: float) -> bool:
    """Wait for the lock; False where this file system has none."""
    until = time.monotonic() + wait
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            log(f"the volume's file system has no locks ({error}): nothing keeps a second trainer")
            return False
        owner = _owner(file) or "another process"
        if time.monotonic() >= until:
            raise Transient(
                f"the volume is in use by {owner}; waited {wait:.0f} s for it to end: two "
                "trainers would overwrite each other's checkpoints"
            )
        if not told:
            log(f"waiting for the volume, which is in use by {owner}")
            told = True
        time.sleep(RETRY_SECONDS)


def _own_name(command: str) -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(
        {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    )


def _name(file: TextIOWrapper, text: str) -> None:
    # It is for people: a full volume must not fail whoever holds the lock, nor when what could not
    # be written would be tried again as the file is closed; so nothing is left in a buffer.
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), text.encode())


def _owner(file: TextIOWrapper) -> str | None:
    """Who wrote its name last, in words; None where it is blank."""
    file.seek(0)
    try:
        found = json.loads(file.read())
        return (
            f"{found['command']} in {found['host']} (process {found['pid']}) since {found['since']}"
        )
    except (ValueError, KeyError, TypeError):
        return None
