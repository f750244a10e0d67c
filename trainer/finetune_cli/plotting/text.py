"""Curves as lines of text: the first curve in braille, the others as marks.

A cell of a terminal has 2 x 4 dots of braille. Marks distinguish the curves without colors, too.
"""

from collections.abc import Sequence

from finetune_cli.plotting.curves import Curve, Frame, between, frame

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character, by row and column of its dots."""
BRAILLE = 0x2800
MARKS = ("*", "o", "x", "+")
"""Of the curves; the first one is for terminals without braille."""
LABEL = 7
"""Columns of the labels of the vertical axis."""
SMALLEST = 8


def plot(curves: Sequence[Curve], *, width: int, height: int, braille: bool) -> list[str]:
    """Return the lines of a plot with axes and legend, within ``width``; empty without points.

    braille: whether the output can have braille characters.
    """
    shown = [curve for curve in curves if curve.points]
    axes = frame(shown)
    if axes is None:
        return []
    columns = max(width - LABEL - 2, SMALLEST)
    rows = [[" "] * columns for _ in range(height)]
    for curve, mark in zip(shown, MARKS, strict=False):
        if braille and mark == MARKS[0]:
            _draw(rows, curve, axes)
        else:
            _mark(rows, curve, axes, mark)
    lines = [
        f"{_label(axes, at, height):>{LABEL}} \N{BOX DRAWINGS LIGHT VERTICAL}{''.join(row)}"
        if braille
        else f"{_label(axes, at, height):>{LABEL}} |{''.join(row)}"
        for at, row in enumerate(rows)
    ]
    first, last = f"step {axes.first}", str(axes.last)
    gap = columns - len(first) - len(last)
    lines.append(f"{'':{LABEL + 2}}{first}{' ' * max(gap, 1)}{last}")
    return [*(line.rstrip() for line in lines), *_legend(shown, width, braille=braille)]


def _label(axes: Frame, row: int, height: int) -> str:
    """Return the value at a row: at the top, in the middle and at the bottom."""
    if row not in (0, height // 2, height - 1):
        return ""
    return f"{axes.value(1 - row / (height - 1)):.4g}"


def _draw(rows: list[list[str]], curve: Curve, axes: Frame) -> None:
    """Draw a curve as a line of dots."""
    wide, high = len(rows[0]) * 2, len(rows) * 4
    cells: dict[tuple[int, int], int] = {}
    before: int | None = None
    for column in range(wide):
        step = axes.first + (axes.last - axes.first) * column / (wide - 1)
        value = between(curve.points, step)
        if value is None:
            before = None
            continue
        at = round((1 - axes.up(value)) * (high - 1))
        # A steep line has no gaps.
        begin = at if before is None else before
        for dot in range(min(begin, at), max(begin, at) + 1):
            key = (dot // 4, column // 2)
            cells[key] = cells.get(key, 0) | DOTS[dot % 4][column % 2]
        before = at
    for (row, column), bits in cells.items():
        rows[row][column] = chr(BRAILLE + bits)


def _mark(rows: list[list[str]], curve: Curve, axes: Frame, mark: str) -> None:
    """Draw a curve as a mark per column, or per point if it is measured at few steps."""
    columns, height = len(rows[0]), len(rows)
    for column in range(columns):
        step = axes.first + (axes.last - axes.first) * column / (columns - 1)
        value = None if curve.measured else between(curve.points, step)
        if value is not None:
            rows[round((1 - axes.up(value)) * (height - 1))][column] = mark
    for step, value in curve.points:
        row = round((1 - axes.up(value)) * (height - 1))
        rows[row][round(axes.across(step) * (columns - 1))] = mark


def _legend(curves: Sequence[Curve], width: int, *, braille: bool) -> list[str]:
    marks = (chr(BRAILLE + 0xFF) if braille else MARKS[0], *MARKS[1:])
    entries = [f"{mark} {curve.name}" for mark, curve in zip(marks, curves, strict=False)]
    lines, line = [], ""
    for entry in entries:
        if line and len(line) + len(entry) + 3 > width:
            lines.append(line)
            line = ""
        line = f"{line}   {entry}" if line else entry
    return [*lines, line]
