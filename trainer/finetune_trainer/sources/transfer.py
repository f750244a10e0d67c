"""One file, byte by byte, going on where it broke off: the same for every kind of source.

What has arrived lies where unfinished files do (``layout``) and survives the process; the file gets
its name when it is whole.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from finetune_trainer.errors import InvalidSpec, Transient
from finetune_trainer.runtime.files import sha256_of
from finetune_trainer.runtime.progress import log
from finetune_trainer.runtime.volume_errors import is_full_volume
from finetune_trainer.sources.repository import RemoteFile
from finetune_trainer.volume_layout import partial_path

CHUNK = 1 << 20
PAUSES = (0.0, 1.0, 4.0, 15.0)
"""Seconds before each further try in a row that got no further; after them the stage ends."""

Read = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Opens a file at an offset; gives the offset that it really begins at, and the bytes from there.
A source that cannot begin in the middle begins at 0."""
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class BrokenTransfer(Exception):
    """A transfer that ended before its file was whole, as the text says; it may be gone on with."""


def is_retryable(status: int) -> bool:
    """Tell whether a server that answers with this status may answer otherwise in a moment."""
    return status in (408, 425, 429) or status >= 500


def fetch(file: RemoteFile, read: Read, into: Path, *, what: str) -> str:
    """Fetch a file into a folder; return its SHA-256. A BrokenTransfer of ``read`` is resumed.

    ``what`` is what messages call the repository. Raises InvalidSpec for a name that leads out of
    the folder, and Transient.
    """
    target = into / file.name
    if not target.resolve().is_relative_to(into.resolve()):
        raise InvalidSpec(
            f"{what} has a file of the name {file.name!r}, which leads out of the folder that it "
            "is brought to: give it another name there"
        )
    if target.is_file() and target.stat().st_size == file.size:
        digest = sha256_of(target)
        if file.sha256 in (None, digest):
            return digest
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = partial_path(target)
    digest = _complete(part, file, read, what)
    if file.sha256 not in (None, digest):
        part.unlink()
        raise Transient(
            f"{file.name} of {what} arrived damaged (SHA-256 {digest}, it should be "
            f"{file.sha256}): it is fetched again at the next attempt"
        )
    part.rename(target)
    return digest


def _complete(part: Path, file: RemoteFile, read: Read, what: str) -> str:
    part.touch()
    if part.stat().st_size > file.size:
        part.write_bytes(b"")
    tries, furthest = 0, part.stat().st_size
    while True:
        before = part.stat().st_size
        try:
            if before < file.size or not file.size:
                _append(part, read, before, file.size)
            if part.stat().st_size == file.size:
                return sha256_of(part)
            raise BrokenTransfer(f"{part.stat().st_size} of {file.size} bytes came")
        except BrokenTransfer as error:
            if is_full_volume(error):
                raise
            size = part.stat().st_size
            # Further than ever: a source that begins at 0 each time may get further than the last.
            tries = 0 if size > furthest else tries + 1
            furthest = max(furthest, size)
            if tries == len(PAUSES):
                raise Transient(
                    f"{file.name} of {what} broke off at {size} of {file.size} bytes ({error}): "
                    "it is gone on with at the next attempt"
                ) from error
            log(f"{file.name} broke off at {size} bytes ({error}): going on")
            time.sleep(PAUSES[tries])


def _append(part: Path, read: Read, offset: int, size: int) -> None:
    with read(offset) as (start, chunks), part.open("r+b") as out:
        if start > offset:
            raise BrokenTransfer(f"it went on at byte {start} instead of {offset}")
        out.truncate(start)
        out.seek(start)
        for chunk in chunks:
            out.write(chunk)
            if out.tell() > size:
                raise BrokenTransfer(f"more than the promised {size} bytes came")


def streamed(answer: httpx.Response) -> tuple[int, Iterator[bytes]]:
    """Return the offset that an answer over HTTP begins at, and its bytes: what a ``Read`` gives.

    Chunks are yielded as they arrive: with a fixed size, the last one before a break would be lost.
    Raises BrokenTransfer for a part that does not say where it begins.
    """
    if answer.status_code != 206:
        return 0, answer.iter_raw()
    told = answer.headers.get("Content-Range", "")
    found = CONTENT_RANGE.match(told)
    if found is None:
        raise BrokenTransfer(f"a part came whose place is not told (Content-Range: {told!r})")
    return int(found[1]), answer.iter_raw()


def digest_while_copying(source: Path, target: Path) -> str:
    """Copy a file; return its SHA-256, which costs no second reading."""
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("wb") as out:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
