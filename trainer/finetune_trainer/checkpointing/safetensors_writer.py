"""Write the merged model's shards one by one, so that an interrupted merge resumes.

A shard is written under a temporary name, flushed and renamed; then the progress file next to the
scratch folder records it with its digest. A killed process repeats at most one shard. Nothing in a
shard depends on when it was written, so the result has the same bytes.
"""

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finetune_api.safety import untrusted_file
from finetune_trainer.checkpointing.safetensors_header import FLOATS, Header, encode_header
from finetune_trainer.volume.files import flush, fresh, write_json
from finetune_trainer.volume_layout import partial_path

DTYPES = {"float16": "F16", "bfloat16": "BF16"}
WAITING = 4
"""Maximum number of queued pieces; more would only use memory."""
WRITE_BEHIND = 16 * 1024 * 1024
"""Bytes after which the kernel is asked to start writing to disk. Otherwise the arithmetic would
wait for each sync: for 30 GB, a disk of 200 MB/s needs 150 s. With it, the waits at the end of a
shard take 0.05 s (bench/README.md, Merge)."""
SYNC_EVERY = 256 * 1024 * 1024
"""Bytes after which the file is synced. A signal is not handled during an fsync, and at 40 MB/s the
one of a 5 GB shard would exceed the termination grace period."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One output file: the tensors of one base shard in their order, in the merged type."""

    name: str
    header: bytes
    entries: dict[str, Any]
    data: int

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return len(self.header) + self.data

    def place(self, tensor: str) -> tuple[int, int]:
        """Return the byte range [start, end) of a tensor in the file."""
        start, end = self.entries[tensor]["data_offsets"]
        return len(self.header) + start, len(self.header) + end


def plan_shard(header: Header, name: str, dtype: str, written: Mapping[str, str]) -> Shard:
    """Return the layout of a shard in the merged number format.

    written: the name of each tensor in the shard.
    """
    entries: dict[str, Any] = {}
    if header.metadata[name]:
        entries["__metadata__"] = header.metadata[name]
    at = 0
    for tensor in header.of_file(name):
        floating = tensor.dtype in FLOATS
        size = tensor.elements * 2 if floating else tensor.end - tensor.start
        entries[written[tensor.name]] = {
            "dtype": DTYPES[dtype] if floating else tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return Shard(name=name, header=encode_header(entries), entries=entries, data=at)


class ShardProgress:
    """Completed shards of one merge, in a small file next to the scratch folder."""

    def __init__(self, path: Path, scratch: Path, key: str) -> None:
        """Read the progress of an earlier attempt at the merge of this ``key``.

        All other files in ``scratch`` are deleted: they would be written again, and the volume may
        not have space for both.
        """
        self._path = path
        self._key = key
        self.done: dict[str, dict[str, Any]] = {}
        try:
            document = json.loads(untrusted_file.read_text(path))
            if document["key"] == key:
                self.done = {
                    name: entry
                    for name, entry in document["shards"].items()
                    if _size(scratch / name) == entry["size"]
                }
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if not self.done:
            fresh(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.is_file() and path.name not in self.done:
                path.unlink()

    def finished(self, shard: Shard, digest: str, applied: Iterable[str]) -> None:
        """Record a shard that was renamed into place."""
        entry = {"size": shard.size, "sha256": digest, "applied": sorted(applied)}
        self.done[shard.name] = entry
        write_json(self._path, {"key": self._key, "shards": self.done})


@contextmanager
def write_shard(path: Path, shard: Shard) -> Iterator["Writer"]:
    """Write a shard; when the block ends without error, it is flushed and in place."""
    part = partial_path(path)
    with part.open("wb") as file:
        writer = Writer(file)
        try:
            writer.write(shard.header)
            yield writer
        finally:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
    size = part.stat().st_size
    if size != shard.size:
        raise RuntimeError(f"{path.name} has {size} bytes instead of {shard.size}")
    part.rename(path)
    flush(path.parent)


class Writer:
    """Writes and hashes in a background thread while the next piece is computed."""

    def __init__(self, file: BinaryIO) -> None:
        """Start the thread."""
        self._file = file
        self._sha256 = hashlib.sha256()
        self._pieces: queue.Queue[bytes | memoryview | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        # A daemon thread: a stop may end the process before ``close`` is called.
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        """SHA-256 in hex of everything written; valid after ``close``."""
        return self._sha256.hexdigest()

    def write(self, piece: bytes | memoryview) -> None:
        """Queue bytes, which must not change afterwards. Raise the error of an earlier write."""
        if self._error is not None:
            raise self._error
        self._pieces.put(piece)

    def close(self) -> None:
        """Wait until everything is written. Raise the error of a write that failed."""
        self._pieces.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        take: Callable[[], bytes | memoryview | None] = self._pieces.get
        at = begun = synced = 0
        while (piece := take()) is not None:
            if self._error is not None:
                continue
            try:
                self._file.write(piece)
                self._sha256.update(piece)
                at += len(piece)
                if at - begun >= WRITE_BEHIND:
                    self._file.flush()
                    # Drops pages that are clean; it begins to write those that are not.
                    os.posix_fadvise(self._file.fileno(), begun, at - begun, os.POSIX_FADV_DONTNEED)
                    begun = at
                if at - synced >= SYNC_EVERY:
                    self._file.flush()
                    os.fdatasync(self._file.fileno())
                    synced = at
            except BaseException as error:
                self._error = error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
