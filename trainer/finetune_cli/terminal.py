"""Prints results to people. Every value from outside passes ``text`` or ``line``, which escape it.

On a terminal, lines are wrapped to its width and have colors, unless NO_COLOR is set. Elsewhere,
they have neither, so that ``grep`` finds them; COLUMNS sets a width.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_api.safety.printable import escaped, printable
from finetune_api.safety.redaction import Canvas

UNWRAPPED = 10_000
"""Columns of an output that is no terminal."""
NARROW = 60
"""Columns below which what is beside something else is printed below it."""
GOOD, BAD, WAITING, QUIET, TITLE = "green", "bold red", "yellow", "dim", "bold"
GAP = re.compile(r"(?<=\S) {3,}")
"""Between two columns."""
STYLES = {
    "True": GOOD,
    "Completed": GOOD,
    "Serving": GOOD,
    "Running": "cyan",
    "Failed": BAD,
    "Stopped": WAITING,
}


def console(stream: Any = None) -> Console:
    """Return a console, by default for stdout."""
    target = stream or sys.stdout
    width = None if target.isatty() or os.environ.get("COLUMNS") else UNWRAPPED
    # A console would otherwise take digits, paths and [brackets] in values for markup.
    return Console(
        file=cast("IO[str]", Canvas(target)),
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
    )


def show(renderable: Any, stream: Any = None) -> None:
    """Print something, without the spaces at the end of its lines."""
    target = stream or sys.stdout
    made = console(target)
    with made.capture() as captured:
        made.print(renderable)
    lines = (line.rstrip() for line in captured.get().splitlines())
    Canvas(target).write("".join(f"{line}\n" for line in lines))


def text(value: object, style: str = "") -> Text:
    """Return a value as one line without control characters."""
    return Text(printable(str(value)), style=style)


def lines(written: str, indent: str = "") -> None:
    """Print lines of a text, whose spaces matter."""
    for written_line in written.splitlines():
        show(Text(f"{indent}{escaped(written_line)}"))


def aligned(written: str) -> None:
    """Print lines of a text in columns, which are closer in a line that is too long."""
    width = console().width
    for written_line in written.splitlines():
        excess = len(written_line) - width
        if excess > 0 and (gap := GAP.search(written_line)) is not None:
            kept = " " * max(len(gap[0]) - excess, 2)
            written_line = written_line[: gap.start()] + kept + written_line[gap.end() :]
        show(Text(escaped(written_line)))


def state(value: object) -> Text:
    """Return an outcome or a status in its color."""
    return text(value, STYLES.get(str(value), ""))


def line(*parts: object, style: str = "") -> None:
    """Print a line of values."""
    joined = Text(" ").join(part if isinstance(part, Text) else text(part) for part in parts)
    joined.stylize(style)
    show(joined)


def title(value: object) -> None:
    """Print the title of a section, after an empty line."""
    print()
    line(text(value, TITLE))


def paragraph(value: object, style: str = "", indent: int = 2) -> None:
    """Print a text that is indented."""
    show(Padding(text(value, style), (0, 0, 0, indent)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], indent: int = 2) -> None:
    """Print a table; a row has a value per column."""
    show(Padding(columns(head, rows), (0, 0, 0, indent), expand=False))


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in head:
        made.add_column(text(name), header_style=QUIET, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else text(cell) for cell in row))
    return made


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns, without those that have no value."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style=QUIET, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, ""):
            made.add_row(name, value if isinstance(value, Text) else text(value))
    show(Padding(made, (0, 0, 0, 2), expand=False))


def document(value: Any) -> None:
    """Print a value as JSON. It is ASCII: no character controls the terminal."""
    print(json.dumps(value, indent=2))


def compact(value: Any) -> None:
    """Print a value as JSON in one line."""
    print(json.dumps(value))
