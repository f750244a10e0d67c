"""Runs mutants of module bodies: one fork for each, of a process that has imported the libraries.

A fork sees the mutated module through an import hook, so nothing is written to disk. It ends with
0 if all tests passed (the mutant survived), with anything else if a test failed.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SECONDS = 300
"""Seconds after which a mutant counts as killed: its loop is endless, or its tests are too slow."""
LIBRARIES = ("pytest", "hypothesis", "pydantic", "yaml", "kubernetes.aio.client", "aiohttp", "kopf")
SURVIVED = 0
PR_SET_PDEATHSIG = 1
"""Option of ``prctl(2)``: the signal that a process gets when its parent ends."""
OPTIONS = (
    *("-x", "-q", "--tb=no", "--no-header", "--no-summary"),
    *("-p", "no:cacheprovider", "-W", "ignore"),
)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a mutated source."""

    def __init__(self, module: str, file: Path, source: str) -> None:
        """``file``: the module's own, which tracebacks name."""
        self.module, self.file, self.source = module, file, source

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the mutated module, None for every other."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutated source."""
        exec(compile(self.source, str(self.file), "exec"), module.__dict__)


def preload() -> None:
    """Import the libraries once, before any fork."""
    for name in LIBRARIES:
        importlib.import_module(name)


def survives(module: str, file: Path, source: str, tests: Sequence[Sequence[str]]) -> bool:
    """Report whether a mutant passes all tests. ``tests``: groups, run in order until one fails."""
    child = os.fork()
    if child == 0:
        _in_fork(_Mutated(module, file, source), tests)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == SURVIVED
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def end_with_parent() -> None:
    """Let this fork end with its parent, and all that it starts with it: a mutant may never end."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def silence() -> None:
    """Discard the output of this process."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _in_fork(finder: _Mutated, tests: Sequence[Sequence[str]]) -> None:
    """Run the tests, and end the process."""
    import pytest

    end_with_parent()
    silence()
    sys.meta_path.insert(0, finder)
    try:
        code = next(
            (failed for group in tests if (failed := pytest.main([*OPTIONS, *group]))), SURVIVED
        )
    except BaseException:
        code = 1
    os._exit(int(code))
