"""One trainer at a time writes to a volume.

The lock is an flock on ``lock.json``. The kernel releases it when its process ends, however that
happens, so there are no stale locks. The file's content names the holder for whoever has to wait; a
name without a lock is from a killed trainer and is overwritten.

Anybody who could write the volume may have made the file. So it must be a regular file: a lock on
the target of a link would exclude nobody, and the name of the holder would overwrite the target.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from finetune_api.safety import untrusted_json
from finetune_trainer.errors import ResumeRefused, Transient
from finetune_trainer.runtime.log import log
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout

WAIT_SECONDS = 600.0
"""Time that the previous pod has to end, including its last checkpoint."""
RETRY_SECONDS = 1.0
NAME_CHARACTERS = 4096
"""Of the file's content, which is read to name the holder."""
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def held(layout: Layout, command: str, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the volume's lock within this block.

    Raise Transient, naming the holder, if another process still holds it after ``wait`` seconds.
    Raise VolumeFull if the lock file cannot be created, and ResumeRefused if it is no regular file.
    """
    with translate_volume_errors(layout.work, "locking"):
        layout.work.mkdir(parents=True, exist_ok=True)
        file = _open(layout.lock)
    with file:
        if _acquire(file, wait=wait):
            stale = _owner(file)
            if stale:
                log(
                    f"{stale} used the volume before and did not exit cleanly; this process now "
                    "uses the volume"
                )
        _write_owner(file, _own_write_owner(command))
        try:
            yield
        finally:
            _write_owner(file, "")


def _open(path: Path) -> TextIOWrapper:
    """Open the lock file, or create it. Follow no link, and wait for no other end of a pipe."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _not_a_file(path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(path)
    return os.fdopen(descriptor, "a+", encoding="utf-8")


def _not_a_file(path: Path) -> ResumeRefused:
    # It is not replaced: two trainers that replace it at the same time would lock different files.
    return ResumeRefused(
        f"{path.name} on the volume is a link, a folder or a device, so it cannot be locked: "
        "delete it, or delete the PersistentVolumeClaim"
    )


def _acquire(file: TextIOWrapper, *, wait: float) -> bool:
    """Wait for the lock; return False if this file system has no locks."""
    until = time.monotonic() + wait
    logged = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            log(
                f"the file system of the volume does not support file locks ({error}): another "
                "trainer that uses the volume at the same time is not detected"
            )
            return False
        owner = _owner(file) or "another process"
        if time.monotonic() >= until:
            raise Transient(
                f"the volume is in use by {owner}, which did not end within {wait:.0f} s. Two "
                "trainers would overwrite each other's checkpoints, so the operator retries the "
                "stage later"
            )
        if not logged:
            log(f"waiting for the volume, which is in use by {owner}")
            logged = True
        time.sleep(RETRY_SECONDS)


def _own_write_owner(command: str) -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(
        {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    )


def _write_owner(file: TextIOWrapper, text: str) -> None:
    # The name is only informative: a full volume must not fail the holder of the lock. The write is
    # unbuffered, because close() would repeat a failed buffered write and raise.
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), text.encode())


def _owner(file: TextIOWrapper) -> str | None:
    """Describe the process that last wrote its name; None if the file is blank."""
    file.seek(0)
    try:
        owner = untrusted_json.parse(file.read(NAME_CHARACTERS))
        return (
            f"{owner['command']} in {owner['host']} (process {owner['pid']}) since {owner['since']}"
        )
    except (ValueError, KeyError, TypeError):
        return None
