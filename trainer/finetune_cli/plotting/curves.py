"""Curves in one frame: their points, and the range of the axes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points with a name for the legend; ``measured``: at few steps, so each is marked."""

    name: str
    points: Points
    measured: bool = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The smallest and the largest step and value of some curves."""

    first: int
    last: int
    low: float
    high: float

    def across(self, step: int) -> float:
        """Return the position of a step, from 0 (left) to 1."""
        return (step - self.first) / ((self.last - self.first) or 1)

    def up(self, value: float) -> float:
        """Return the position of a value, from 0 (bottom) to 1."""
        return (value - self.low) / ((self.high - self.low) or 1)

    def value(self, up: float) -> float:
        """Return the value at a position."""
        return self.low + up * (self.high - self.low)


def frame(curves: Sequence[Curve]) -> Frame | None:
    """Return the frame of curves, None if they have no point."""
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    if not steps:
        return None
    return Frame(first=min(steps), last=max(steps), low=min(values), high=max(values))


def between(points: Points, step: float) -> float | None:
    """Return the value of a curve at a step, on the line between two points; None outside."""
    for (begin, before), (end, after) in pairwise(points):
        if begin <= step <= end:
            return before + (after - before) * (step - begin) / ((end - begin) or 1)
    return points[0][1] if len(points) == 1 and points[0][0] == step else None
