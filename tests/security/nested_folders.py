"""Folders that are nested more deeply than a path can name."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEVELS = 3000


@contextmanager
def nested(name: str = "nested") -> Iterator[Path]:
    """Return a folder that contains ``LEVELS`` folders of this name, one in the other.

    It is not below the temporary folders of pytest, which cannot delete so many levels: after a run
    that was killed, the next one would fail.
    """
    top = Path(tempfile.mkdtemp(prefix="nested-"))
    try:
        folder = os.open(top, os.O_RDONLY)
        for _ in range(LEVELS):
            os.mkdir(name, dir_fd=folder)
            below = os.open(name, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)
        yield top
    finally:
        subprocess.run(["rm", "-rf", top], check=True)
