"""Downloads one file and resumes after interruptions, for every kind of source.

The received bytes are kept in a partial file (``volume_layout.partial_path``) that survives the
process; a complete file is renamed.
"""

import errno
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file
from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import InvalidSpec, Transient
from finetune_trainer.runtime.log import log
from finetune_trainer.sources.repository import RemoteFile
from finetune_trainer.volume.files import sha256_of
from finetune_trainer.volume.volume_errors import is_full_volume
from finetune_trainer.volume_layout import partial_path

CHUNK = 1 << 20
PAUSES = (0.0, 1.0, 4.0, 15.0)
"""Seconds before each retry in a row without progress; after the last one the stage fails."""

Read = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Opens a file at an offset; returns the offset at which it really starts, and the bytes from
there. A source that cannot resume starts at 0."""
MOST_FOLDERS = 64
UNUSABLE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
"""Errors that depend on the name of a file, not on the state of the volume."""
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_FULL = re.compile(
    r"no space left|insufficient storage|storage (limit|resource|full)|storagefull"
    r"|quota[\w ]* (exceeded|exhausted|reached|used up)|quotaexceeded|exceed[\w ]* quota"
)


class BrokenTransfer(Exception):
    """A transfer ended before its file was complete, for the reason in the text; it can resume."""


def is_retryable(status: int) -> bool:
    """Report whether a request with this HTTP status may succeed if it is retried."""
    return status in (408, 425, 429) or status >= 500


def is_full(status: int, text: str) -> bool:
    """Report whether the answer of a server means that its space or a quota is used up.

    Servers have no common status for it: 507 is the standard, 413, 412 and 403 are quotas of some
    registries, and 500 is a full disk. A rate limit may name a quota, too, and passes.
    """
    if status in (401, 429) or status < 400:
        return False
    return status == 507 or _FULL.search(text.lower()) is not None


def fetch(file: RemoteFile, read: Read, into: Path, *, what: str) -> str:
    """Fetch a file into a folder; return its SHA-256. A BrokenTransfer of ``read`` is resumed.

    Messages call the repository ``what``. Raises InvalidSpec for a file name that leads out of the
    folder, Transient for a damaged or interrupted download.
    """
    target = path_below(into, file.name, what)
    if target.is_file() and target.stat().st_size == file.size:
        digest = sha256_of(target)
        if file.sha256 in (None, digest):
            return digest
        target.unlink()
    part = partial_path(target)
    digest = _complete(part, file, read, what)
    if file.sha256 not in (None, digest):
        part.unlink()
        raise Transient(
            f"{file.name} of {what} is damaged (SHA-256 {digest} instead of {file.sha256}): the "
            "next attempt downloads it again"
        )
    part.rename(target)
    return digest


def has(target: Path, *, size: int, sha256: str) -> bool:
    """Report whether a file is complete: an earlier attempt may have fetched it."""
    return target.is_file() and target.stat().st_size == size and sha256_of(target) == sha256


def path_below(into: Path, name: str, what: str) -> Path:
    """Return the path of a file below a folder, and create its parent folders.

    Raise InvalidSpec for a name that leads elsewhere, or that no file can have.
    """
    target = into / name
    if name.count("/") > MOST_FOLDERS:
        raise InvalidSpec(_refusal(name, what, f"has more than {MOST_FOLDERS} levels of folders"))
    try:
        if not target.resolve().is_relative_to(into.resolve()):
            raise InvalidSpec(_refusal(name, what, "leads out of the download folder"))
        target.parent.mkdir(parents=True, exist_ok=True)
        usable = not target.is_dir() and not partial_path(target).is_dir()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in UNUSABLE:
            raise
        usable = False
    if not usable:
        raise InvalidSpec(_refusal(name, what, "cannot be the name of a file"))
    return target


def _refusal(name: str, what: str, problem: str) -> str:
    return (
        f"{what} has a file with the name {one_line(repr(name), 300)}. This name {problem}: "
        "rename the file in the source"
    )


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
            raise BrokenTransfer(f"only {part.stat().st_size} of {file.size} bytes received")
        except BrokenTransfer as error:
            if is_full_volume(error):
                raise
            size = part.stat().st_size
            # Compared with the maximum: a source that restarts at 0 may still make progress.
            tries = 0 if size > furthest else tries + 1
            furthest = max(furthest, size)
            if tries == len(PAUSES):
                raise Transient(
                    f"the download of {file.name} of {what} was interrupted at {size} of "
                    f"{file.size} bytes ({error}): the next attempt resumes it"
                ) from error
            log(f"download of {file.name} interrupted at {size} bytes ({error}): resuming")
            time.sleep(PAUSES[tries])


def _append(part: Path, read: Read, offset: int, size: int) -> None:
    with read(offset) as (start, chunks), part.open("r+b") as out:
        if start > offset:
            raise BrokenTransfer(f"the server resumed at byte {start} instead of {offset}")
        out.truncate(start)
        out.seek(start)
        for chunk in chunks:
            out.write(chunk)
            if out.tell() > size:
                raise BrokenTransfer(f"more than the expected {size} bytes received")


def streamed(answer: Any) -> tuple[int, Iterator[bytes]]:
    """Return the start offset of an HTTP answer and its bytes, as a ``Read`` does.

    answer: a response of httpx, or of httpx2, which the newest hub client uses.
    Chunks are yielded as they arrive: with a fixed size, the last one before a break would be lost.
    Raises BrokenTransfer for a part that does not say where it begins.
    """
    if answer.status_code != 206:
        return 0, answer.iter_raw()
    content_range = answer.headers.get("Content-Range", "")
    match = CONTENT_RANGE.match(content_range)
    if match is None:
        raise BrokenTransfer(
            f"the server returned a part of the file without its offset (Content-Range: "
            f"{content_range!r})"
        )
    return int(match[1]), answer.iter_raw()


def digest_while_copying(source: Path, target: Path) -> str:
    """Copy a file and return its SHA-256 without reading it twice."""
    digest = hashlib.sha256()
    with untrusted_file.open_regular(source) as file, target.open("wb") as out:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
