"""Patterns of file names in the card of a dataset: ``*``, ``?``, ``[…]``, and ``**`` for folders.

They have the meaning that they have for ``datasets``: ``*`` matches no slash, and hidden files and
folders with two underscores match only if the pattern names them. A pattern cannot select a file
outside the repository.
"""

import fnmatch
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import takewhile

MOST_CHARACTERS = 1024
MAGIC = re.compile(r"[*?\[]")
FOLDERS = "**"


class UnusablePattern(ValueError):
    """A pattern that selects no file of the repository by its form; the text says why."""


def has_magic(pattern: str) -> bool:
    """Report whether a pattern can match several files."""
    return MAGIC.search(pattern) is not None


def matching(pattern: str, folder: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern below a folder selects. names: all files, sorted."""
    steps = (*steps_of(folder), *steps_of(pattern))
    fixed = list(takewhile(lambda step: not has_magic(step), steps))
    if len(fixed) == len(steps):
        name = "/".join(fixed)
        at = bisect_left(names, name)
        return [name] if at < len(names) and names[at] == name else []
    prefix = "".join(f"{step}/" for step in fixed)
    return [name for name in _beginning(prefix, names) if _fits(steps, name)]


def steps_of(path: str) -> tuple[str, ...]:
    """Return the steps of a relative path. Raises UnusablePattern for any other path."""
    if len(path) > MOST_CHARACTERS:
        raise UnusablePattern(f"it has more than {MOST_CHARACTERS} characters")
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    if path.startswith("/") or ".." in steps or "::" in path or ":" in path.split("/")[0]:
        # An absolute path, a URL, or a file in an archive.
        raise UnusablePattern("it leads out of the repository")
    return steps


def _beginning(prefix: str, names: Sequence[str]) -> Iterator[str]:
    for at in range(bisect_left(names, prefix), len(names)):
        if not names[at].startswith(prefix):
            return
        yield names[at]


def _fits(steps: Sequence[str], name: str) -> bool:
    parts = name.split("/")
    if _hidden(parts) != _hidden(steps) or _special(parts) != _special(steps):
        return False
    # The last ** takes one more part whenever the steps after it do not fit.
    at = done = 0
    resume: tuple[int, int] | None = None
    while done < len(parts):
        if at < len(steps) and steps[at] == FOLDERS:
            at += 1
            resume = (at, done)
        elif at < len(steps) and _step(steps[at])(parts[done]):
            at, done = at + 1, done + 1
        elif resume is not None:
            resume = (resume[0], resume[1] + 1)
            at, done = resume
        else:
            return False
    return at == len(steps)


def _hidden(parts: Sequence[str]) -> int:
    return sum(part.startswith(".") for part in parts)


def _special(parts: Sequence[str]) -> int:
    return sum(part.startswith("__") for part in parts[:-1])


@lru_cache(maxsize=256)
def _step(step: str) -> Callable[[str], re.Match[str] | None]:
    # The expressions of fnmatch do not backtrack.
    return re.compile(fnmatch.translate(step)).match
