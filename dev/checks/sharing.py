"""A pytest plugin with which several pytest processes share the test files of one suite.

Every process collects all files. Before the first test of a file, a process claims the file in a
shared folder; the other processes skip the file. Therefore the processes end at about the same
time. The files that took longest in the last run come first; files without a record come before
them, because they can take long.

``CHECKS_CLAIMS`` is the folder. Without this variable, the plugin changes nothing.

pytest-xdist starts all its processes at once, while ours begin when their lane is free. It also
runs the files with the most tests first: with the durations of a run of ``make test``, two
processes would end the trainer tests after 947 instead of 845 s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FOLDER, DURATIONS = "CHECKS_CLAIMS", "CHECKS_DURATIONS"
UNKNOWN = float("inf")


def variables(folder: Path, durations: Path) -> dict[str, str]:
    """Return the environment variables of the processes that share files."""
    return {FOLDER: str(folder), DURATIONS: str(durations)}


def recorded(file: Path) -> dict[str, float]:
    """Return the seconds of each test file in the last run; empty without a readable record."""
    try:
        durations = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(seconds) for name, seconds in durations.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class Claims:
    """The files that this process has claimed, and the files that it must skip."""

    def __init__(self, folder: Path, seconds: Mapping[str, float]) -> None:
        self._folder = folder
        self._seconds = seconds
        self._own: dict[str, bool] = {}

    def order(self, files: list[str]) -> dict[str, int]:
        """Return the position of each file, the longest first; ties stay in order."""
        ranked = sorted(dict.fromkeys(files), key=lambda file: -self._seconds.get(file, UNKNOWN))
        return {file: position for position, file in enumerate(ranked)}

    def claim(self, file: str) -> bool:
        """Report whether this process runs the tests of a file; claim the file if it is free."""
        if file not in self._own:
            try:
                (self._folder / f"{file.replace('/', '__')}.claimed").open("x").close()
                self._own[file] = True
            except FileExistsError:
                self._own[file] = False
        return self._own[file]


_claims: list[Claims] = []


def pytest_configure(config: pytest.Config) -> None:
    """Enable the plugin if the variable is set."""
    _claims.clear()
    if folder := os.environ.get(FOLDER):
        _claims.append(Claims(Path(folder), recorded(Path(os.environ.get(DURATIONS, "")))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    for claims in _claims:
        order = claims.order([_file(item) for item in items])
        items.sort(key=lambda item: order[_file(item)])


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Skip a test if another process has claimed its file."""
    if all(claims.claim(_file(item)) for claims in _claims):
        return None
    # The previous test kept fixtures for this one; the next one may not need them.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
