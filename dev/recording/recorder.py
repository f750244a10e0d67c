"""Run a command in a pseudo-terminal and write its output with timings."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

COLUMNS, ROWS = 104, 26
OF_MAKE = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
"""With these, a make that runs within another one prints its folder."""


def record(path: Path, command: Sequence[str]) -> int:
    """Run a command, show its output, and write it to ``path``; return the exit status.

    The current folder is written as ``.``, and the home folder as ``~``.
    """
    begin = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        # In the child, whose standard streams are the terminal. Its size must be set before the
        # command reads it.
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        for name in OF_MAKE:
            os.environ.pop(name, None)
        os.execvp(command[0], list(command))
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    here, home = str(Path.cwd()), str(Path.home())
    with path.open("w", encoding="utf-8") as file:
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "command": " ".join(command)}
        file.write(json.dumps(header) + "\n")
        while data := _read(terminal):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            text = decoder.decode(data).replace(here, ".").replace(home, "~")
            event = [round(time.monotonic() - begin, 3), "o", text]
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read(terminal: int) -> bytes:
    """Return the next output, empty at the end."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux reports the end of the last process this way.
        return b""
