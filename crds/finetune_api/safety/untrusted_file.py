"""Files that another process may have put on a volume.

Opening a named pipe waits until another process opens its other end, which may be never. So a file
is opened without waiting, and only regular files are read.
"""

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

NOT_A_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)
"""Errors of opening a link that is not followed, a socket or the other end of a pipe, a folder."""


class NotAFile(OSError):
    """The path is a folder, a pipe, a socket, a device, or a link that is not followed."""


def open_regular(path: Path, *, follow_links: bool = True) -> FileIO:
    """Open a regular file for reading, without a buffer. Raise NotAFile or another OSError.

    follow_links: whether ``path`` itself may be a link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in NOT_A_FILE:
            raise _not_a_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(path)
    return FileIO(descriptor, "rb")


def open_buffered(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raise NotAFile or another OSError."""
    return BufferedReader(open_regular(path))


def read_bytes(path: Path, *, follow_links: bool = True) -> bytes:
    """Return the content of a regular file. Raise NotAFile or another OSError."""
    with open_regular(path, follow_links=follow_links) as file:
        return file.readall()


def read_text(path: Path) -> str:
    """Return the text of a regular file in UTF-8. Raise OSError, or ValueError if it is no text."""
    return read_bytes(path).decode()


def _not_a_file(path: Path) -> NotAFile:
    return NotAFile(errno.EINVAL, "it is not a regular file", str(path))
