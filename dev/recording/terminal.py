"""Replay a recording: the text of each terminal row over time.

Only the control codes of this project's programs are supported: line feed, carriage return, and
erase to the end of the line. Colors are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

PIECE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+|\x1b")
ERASE = ("\x1b[K", "\x1b[0K")

Event = tuple[float, str]
"""Seconds since the start, and output."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A text in a row from one time to another; ``until`` is None if it stays until the end."""

    row: int
    text: str
    since: float
    until: float | None = None


@dataclass(kw_only=True)
class Screen:
    """A screen with unlimited rows of unlimited length; programs write at the cursor."""

    rows: list[str] = field(default_factory=lambda: [""])
    column: int = 0

    def write(self, output: str) -> None:
        """Write output at the cursor."""
        for piece in PIECE.findall(output):
            if piece == "\n":
                self._next_row()
            elif piece == "\r":
                self.column = 0
            elif piece in ERASE:
                self.rows[-1] = self.rows[-1][: self.column]
            elif not piece.startswith("\x1b"):
                self._print(piece)

    def _print(self, text: str) -> None:
        row = self.rows[-1].ljust(self.column)
        self.rows[-1] = row[: self.column] + text + row[self.column + len(text) :]
        self.column += len(text)

    def _next_row(self) -> None:
        self.rows.append("")
        self.column = 0


def read(path: Path) -> tuple[dict[str, object], list[Event]]:
    """Return header and output of a recording."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return json.loads(header), [(float(at), text) for at, kind, text in events if kind == "o"]


def compressed(events: Sequence[Event], seconds: float) -> list[Event]:
    """Return the events within about ``seconds``: every pause is cut to the same longest one."""
    pauses = [after - before for (before, _), (after, _) in pairwise([(0.0, ""), *events])]
    if sum(pauses) <= seconds:
        return list(events)
    low, high = 0.0, seconds
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if sum(min(p, middle) for p in pauses) < seconds else (low, middle)
        )
    at, result = 0.0, []
    for pause, (_, text) in zip(pauses, events, strict=True):
        at += min(pause, low)
        result.append((at, text))
    return result


def until(events: Iterable[Event], last: str) -> list[Event]:
    """Return the events up to and including the line that contains ``last``; all without one."""
    kept: list[Event] = []
    line = ""
    for at, text in events:
        before, line = line, line + text
        place = line.find(last)
        if place >= 0:
            end = line.find("\n", place)
            if end >= 0:
                return [*kept, (at, text[: end - len(before)])]
        elif "\n" in line:
            line = line[line.rindex("\n") + 1 :]
        kept.append((at, text))
    return kept


def replay(events: Iterable[Event], *, columns: int, shortest: float = 0.1) -> list[Shown]:
    """Return what every row showed, by time. A text shown for less than ``shortest`` is left out.

    The text that a row has at the end is always returned. A text that is longer than a row is cut
    rather than wrapped: a picture is easier to read that way.
    """
    screen = Screen()
    current: dict[int, tuple[float, str]] = {}
    shown: list[Shown] = []
    for at, output in events:
        screen.write(output)
        # Rows above the cursor's never change.
        for row in range(max(len(current) - 1, 0), len(screen.rows)):
            since, text = current.get(row, (at, ""))
            new = screen.rows[row].rstrip()
            if len(new) > columns:
                new = f"{new[: columns - 1]}…"
            if new == text:
                current[row] = (since, text)
                continue
            if text and at - since >= shortest:
                shown.append(Shown(row=row, text=text, since=since, until=at))
                since = at
            current[row] = (since if text else at, new)
    shown += [
        Shown(row=row, text=text, since=since) for row, (since, text) in current.items() if text
    ]
    return sorted(shown, key=lambda line: (line.since, line.row))
