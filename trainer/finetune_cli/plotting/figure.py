"""A plot with axes and legend as shapes, of which SVG and PNG draw the same figure. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_cli.plotting.curves import Curve, Frame, frame

WIDTH, HEIGHT = 800, 420
LEFT, TOP, RIGHT, BOTTOM = 70, 50, 20, 50
COLORS = ("#1f3a5f", "#d1495b", "#3a7d44", "#b07d1c")
GRID = "#e6e6e6"
TICKS = 5
SIZE, TITLE_SIZE = 12, 15

Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at its baseline, which begins or ends at ``x``."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "end"] = "start"
    size: int = SIZE


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through places."""

    places: tuple[Place, ...]
    color: str
    width: float


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A filled circle."""

    place: Place
    color: str
    radius: float = 3.5


@dataclass(frozen=True, kw_only=True)
class Square:
    """A filled square by its upper left corner."""

    place: Place
    color: str
    size: float = 10


Shape = Label | Line | Dot | Square


def shapes(curves: Sequence[Curve], *, title: str) -> Iterator[Shape]:
    """Yield the shapes of a figure of WIDTH x HEIGHT, from back to front."""
    shown = [curve for curve in curves if curve.points]
    axes = frame(shown)
    yield Label(x=LEFT, y=24, text=title, size=TITLE_SIZE)
    if axes is not None:
        yield from _ticks(axes)
        for curve, color in zip(shown, COLORS, strict=False):
            yield from _curve(curve, axes, color)
    yield from _legend(shown)


def _place(axes: Frame, step: int, value: float) -> Place:
    across = LEFT + axes.across(step) * (WIDTH - LEFT - RIGHT)
    return round(across, 1), _height(axes.up(value))


def _height(up: float) -> float:
    return round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)


def _ticks(axes: Frame) -> Iterator[Shape]:
    for tick in range(TICKS):
        share = tick / (TICKS - 1)
        y = _height(share)
        yield Line(places=((LEFT, y), (WIDTH - RIGHT, y)), color=GRID, width=1)
        yield Label(x=LEFT - 8, y=y + 4, text=f"{axes.value(share):.4g}", anchor="end")
    bottom = HEIGHT - BOTTOM + 18
    yield Label(x=LEFT, y=bottom, text=f"step {axes.first}")
    yield Label(x=WIDTH - RIGHT, y=bottom, text=str(axes.last), anchor="end")


def _curve(curve: Curve, axes: Frame, color: str) -> Iterator[Shape]:
    places = tuple(_place(axes, step, value) for step, value in curve.points)
    yield Line(places=places, color=color, width=1.5)
    if curve.measured or len(places) == 1:
        for place in places:
            yield Dot(place=place, color=color)


def _legend(curves: Sequence[Curve]) -> Iterator[Shape]:
    x = LEFT
    for curve, color in zip(curves, COLORS, strict=False):
        yield Square(place=(x, HEIGHT - 18), color=color)
        yield Label(x=x + 15, y=HEIGHT - 9, text=curve.name)
        x += 35 + 7 * len(curve.name)
