"""Files of the volume as the client of a hub reads them.

The digests are known, so the client computes none. The stream compares the file with its digest
while the client reads it, and fails before the last byte of another file is sent.
"""

import hashlib
import io

from huggingface_hub import CommitOperationAdd
from huggingface_hub.lfs import UploadInfo

from finetune_api.safety import untrusted_file
from finetune_trainer.publishing.content import File
from finetune_trainer.publishing.transfer import Transfer

SAMPLE = 512
"""Bytes from the beginning of a file by which a hub decides how it is stored."""


class Stream(io.BufferedIOBase):
    """The bytes of a file. Each read raises ResumeRefused if they are not those of the digest."""

    def __init__(self, file: File, transfer: Transfer) -> None:
        self._file = file
        self._transfer = transfer
        self._opened: io.BytesIO | io.FileIO | None = None
        self._at = 0
        self._hashed = 0
        self._digest = hashlib.sha256()
        self.taken = 0
        """Bytes that were read."""

    def readable(self) -> bool:
        """Report True."""
        return True

    def seekable(self) -> bool:
        """Report True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes, all without it. Raise Stopped if the process should end."""
        self._transfer.check()
        left = max(0, self._file.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        chunk = self._read(wanted)
        if len(chunk) < wanted:
            raise self._file.changed()
        if self._at <= self._hashed < self._at + len(chunk):
            self._digest.update(chunk[self._hashed - self._at :])
            self._hashed = self._at + len(chunk)
            if self._hashed == self._file.size:
                self._file.require(self._digest.hexdigest())
        self._at += len(chunk)
        self.taken += len(chunk)
        if self._at == self._file.size:
            self.release()
        return chunk

    def release(self) -> None:
        """Close the file, which the next read opens again: the client does not close the stream."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def close(self) -> None:
        """Close the stream."""
        self.release()
        super().close()

    def _read(self, count: int) -> bytes:
        if not count:
            return b""
        if self._opened is None:
            self._opened = self._open()
        self._opened.seek(self._at)
        return self._opened.read(count)

    def _open(self) -> io.BytesIO | io.FileIO:
        if self._file.data is not None:
            return io.BytesIO(self._file.data)
        try:
            return untrusted_file.open_regular(self._file.path, follow_links=False)
        except (FileNotFoundError, untrusted_file.NotAFile) as error:
            raise self._file.changed() from error


def addition(file: File, transfer: Transfer) -> tuple[CommitOperationAdd, Stream]:
    """Return the operation that adds a file to a commit, and the stream that it reads."""
    stream = Stream(file, transfer)
    # The client would hash a stream that it is given at once.
    operation = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=b"")
    sample = b"".join(file.read(0, min(SAMPLE, file.size)))
    operation.upload_info = UploadInfo(
        size=file.size, sample=sample, sha256=bytes.fromhex(file.sha256)
    )
    operation.path_or_fileobj = stream
    return operation, stream


def git_digest(file: File) -> str:
    """Return the SHA-1 by which Git names a file. Raise ResumeRefused if it has changed."""
    git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    own = hashlib.sha256()
    for chunk in file.read():
        git.update(chunk)
        own.update(chunk)
    file.require(own.hexdigest())
    return git.hexdigest()
