"""Files that a command generates, and the generated part of a page, between two markers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster import paths

END = "<!-- End of the generated part. -->"


def with_lines(page: str, begin: str, lines: Iterable[str]) -> str:
    """Return the page with these lines between ``begin`` and END.

    Raises ValueError without these markers.
    """
    before, start, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the page needs the lines {begin!r} and {END!r}")
    return f"{before}{begin}\n\n{chr(10).join(lines)}\n{END}{after}"


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    escaped = (cell.replace("|", "\\|").replace("<", "\\<") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def write(files: Mapping[Path, str]) -> None:
    """Write the text of each file."""
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")


def check(files: Mapping[Path, str], command: str) -> int:
    """Report the files with another text; return 1 if there are any. command: it writes them."""
    stale = [file for file, text in files.items() if file.read_text("utf-8") != text]
    for file in stale:
        print(f"{file.relative_to(paths.REPO)} is stale: run {command}", file=sys.stderr)
    return int(bool(stale))
