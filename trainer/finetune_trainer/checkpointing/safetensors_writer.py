"""The merged model's shards: laid out before the first byte, written one by one, kept over a kill.

A shard is written under another name, flushed, and renamed; then the plan beside the scratch folder
says that it is done, with its digest. So a process that was killed at any moment redoes at most the
shard it was writing, and since nothing in a shard depends on when it was written, the result is the
same bytes.
"""

import ctypes
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finetune_trainer.checkpointing.safetensors_header import FLOATS, Header, encode_header
from finetune_trainer.runtime.files import flush, fresh, write_json
from finetune_trainer.volume_layout import partial_path

DTYPES = {"float16": "F16", "bfloat16": "BF16"}
WAITING = 4
"""Pieces that may wait to be written; more would only take memory."""
WRITE_BEHIND = 16 * 1024 * 1024
"""Bytes after which the disk gets to work."""
SYNC_EVERY = 256 * 1024 * 1024
"""Bytes after which the disk is waited for. No signal is heeded while a file is flushed, and at
40 MB/s a shard of 5 GB would take longer than a stop may."""
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One output file: the tensors of one base shard, in their order, in the merged type."""

    name: str
    header: bytes
    entries: dict[str, Any]
    data: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.data

    def place(self, tensor: str) -> tuple[int, int]:
        """Return the first byte of a tensor in the file, and the one past its last."""
        start, end = self.entries[tensor]["data_offsets"]
        return len(self.header) + start, len(self.header) + end


def layout(header: Header, name: str, dtype: str) -> Shard:
    """Lay a shard out in the merged number format."""
    entries: dict[str, Any] = {}
    if header.metadata[name]:
        entries["__metadata__"] = header.metadata[name]
    at = 0
    for tensor in header.of_file(name):
        floating = tensor.dtype in FLOATS
        size = tensor.elements * 2 if floating else tensor.end - tensor.start
        entries[tensor.name] = {
            "dtype": DTYPES[dtype] if floating else tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return Shard(name=name, header=encode_header(entries), entries=entries, data=at)


class Progress:
    """Which shards of one merge are done: a small file beside the scratch folder."""

    def __init__(self, path: Path, scratch: Path, key: str) -> None:
        """Find out what an earlier attempt at the merge of this ``key`` has left.

        Of what lies in ``scratch``, only shards that are done stay: the rest would be written once
        more beside itself, and there may be no room for both.
        """
        self._path = path
        self._key = key
        self.done: dict[str, dict[str, Any]] = {}
        try:
            document = json.loads(path.read_text())
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
        """Remember a shard that is in its place."""
        entry = {"size": shard.size, "sha256": digest, "applied": sorted(applied)}
        self.done[shard.name] = entry
        write_json(self._path, {"key": self._key, "shards": self.done})


@contextmanager
def writing(path: Path, shard: Shard) -> Iterator["Writer"]:
    """Write a shard; it is in its place, flushed, when the block ends well."""
    part = partial_path(path)
    with part.open("wb") as file:
        reserve(file.fileno(), shard.size)
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
    """Writes and hashes in a thread of its own, while the next piece is computed."""

    def __init__(self, file: BinaryIO) -> None:
        """Start the thread."""
        self._file = file
        self._sha256 = hashlib.sha256()
        self._pieces: queue.Queue[bytes | memoryview | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        # A daemon: a stop may come before anybody is there to close it.
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        """SHA-256 of all that was written, once closed."""
        return self._sha256.hexdigest()

    def write(self, piece: bytes | memoryview) -> None:
        """Hand over bytes, which must not change any more."""
        if self._error is not None:
            raise self._error
        self._pieces.put(piece)

    def close(self) -> None:
        """Wait until everything is written."""
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
                    begin_writing(self._file.fileno(), begun, at - begun)
                    begun = at
                if at - synced >= SYNC_EVERY:
                    self._file.flush()
                    os.fdatasync(self._file.fileno())
                    synced = at
            except BaseException as error:
                self._error = error


def reserve(descriptor: int, size: int) -> None:
    """Let the file system find the place for a file at once, which halves the cost of writing it.

    Where that is refused it finds it piece by piece. Not posix_fallocate(3), which would write. The
    file stays as long as what was written to it, so that one that is too short shows.
    """
    keep_size = 1
    LIBC.fallocate(descriptor, keep_size, ctypes.c_int64(0), ctypes.c_int64(size))


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Let the kernel begin to bring a part of a file to disk, without waiting for it.

    Otherwise it begins when the file is complete and flushed, and everything waits. This promises
    nothing (sync_file_range(2)); where it is refused, flushing takes longer.
    """
    write = 2
    LIBC.sync_file_range(
        descriptor, ctypes.c_int64(start), ctypes.c_int64(size), ctypes.c_uint(write)
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
