"""stdin, stdout and stderr of the process, whatever they are: closed, full, or a closed pipe."""

import errno
import io
import os
import sys
from collections.abc import Callable

CANNOT_WRITE = 1


def prepare() -> None:
    """Open what is closed, and let no character of a file name end the process.

    A closed stream would become the next file that the process opens.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def guarded(call: Callable[[], int]) -> int:
    """Return the exit code of a call, whose output has been written; report why it was not."""
    try:
        code = call()
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        # The reader of a pipe has read enough.
        if error.errno != errno.EPIPE:
            print(f"the output cannot be written: {error.strerror or error}", file=sys.stderr)
        return CANNOT_WRITE
    return code


def _discard_output() -> None:
    """Let the flush at the end of the process succeed, although stdout cannot be written."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:
        # stdout is no file, as in a test.
        return
