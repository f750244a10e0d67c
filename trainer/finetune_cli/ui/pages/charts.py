"""Charts as SVG without styles: the style sheet has their colors, for light and for dark screens.

Each chart has a title for screen readers; a table beside it has its numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_cli.plotting.curves import Curve, Frame, frame
from finetune_cli.ui.pages import states
from finetune_cli.ui.pages.html import Child, Element, h

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28
TICKS = 5
STEPS = 4
"""Marks of the axis of steps after the first one."""
BAR_WIDTH, BAR_HEIGHT = 200, 12
LABEL_ROOM = 0.1
"""Share of the width of a scale that half of a label needs."""


def curves(shown: Sequence[Curve], title: str) -> Element | None:
    """Return curves in one frame, None if none has a point. The class of a curve is its number."""
    axes = frame(shown)
    if axes is None:
        return None
    lines = [_curve(axes, curve, at) for at, curve in enumerate(shown) if curve.points]
    legend = [
        h("li", curve.name, class_=f"curve{at}") for at, curve in enumerate(shown) if curve.points
    ]
    return h(
        "figure",
        _svg((_axes(axes), lines), WIDTH, HEIGHT, title, "chart"),
        h("figcaption", h("ul", legend, class_="legend")),
    )


def bar(begin: float, width: float, words: str, kind: str) -> Element:
    """Return a bar in a row of time. begin, width: parts of the whole, from 0 to 1."""
    left = round(begin * BAR_WIDTH, 1)
    wide = round(max(width * BAR_WIDTH, 2), 1)
    track = h("rect", width=BAR_WIDTH, height=BAR_HEIGHT, class_="track")
    shape = h("rect", x=left, width=wide, height=BAR_HEIGHT, class_=f"bar {kind}")
    return _svg((track, shape), BAR_WIDTH, BAR_HEIGHT, words, "timeline", stretched=True)


def gauge(verification: Mapping[str, Any]) -> Child:
    """Return the distance of a verification beside its limit, None if one of them is unknown."""
    shown = states.distance(verification)
    if not shown:
        return None
    distance, limit = (float(verification[name]) for name in ("distance", "tolerance"))
    share = f"{distance / limit:.0%}; " if limit else ""
    words = f"distance {shown} allowed ({share}smaller is better)"
    return _against(distance, limit, words), words


def _against(value: float, limit: float, words: str) -> Element:
    """Return a value on a scale with the limit that it must not exceed.

    Its places are shares of its width, so that the text is not stretched.
    """
    scale = max(value, limit) * 1.2 or 1.0
    at, mark = f"{max(value / scale, 0.005):.1%}", f"{limit / scale:.1%}"
    kind = "good" if value <= limit else "bad"
    anchor = "middle" if limit / scale > LABEL_ROOM else "start"
    return h(
        "svg",
        h("title", words),
        h("rect", width="100%", height=BAR_HEIGHT, class_="track"),
        h("rect", width=at, height=BAR_HEIGHT, class_=f"bar {kind}"),
        h("rect", x=mark, width=2, height=BAR_HEIGHT, class_="limit"),
        h("text", "limit", x=mark, y=BAR_HEIGHT + 14, text_anchor=anchor),
        role="img",
        aria_label=words,
        class_="gauge",
    )


def _svg(
    content: Child, width: int, height: int, title: str, kind: str, *, stretched: bool = False
) -> Element:
    return h(
        "svg",
        h("title", title),
        content,
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none" if stretched else None,
        role="img",
        aria_label=title,
        class_=kind,
    )


def _axes(axes: Frame) -> list[Element]:
    parts: list[Element] = []
    for tick in range(TICKS):
        share = tick / (TICKS - 1)
        y = _height(share)
        parts.append(h("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        label = f"{axes.value(share):.3g}"
        parts.append(h("text", label, x=LEFT - 6, y=y + 4, text_anchor="end"))
    for tick in range(STEPS + 1):
        step = axes.first + round((axes.last - axes.first) * tick / STEPS)
        x = round(LEFT + axes.across(step) * (WIDTH - LEFT - RIGHT), 1)
        anchor = {0: "start", STEPS: "end"}.get(tick, "middle")
        label = f"step {step}" if tick == 0 else str(step)
        # Steps that are fewer than the marks would be written twice.
        if tick == 0 or axes.last - axes.first >= STEPS or tick == STEPS:
            parts.append(h("text", label, x=x, y=HEIGHT - 8, text_anchor=anchor))
    return parts


def _curve(axes: Frame, curve: Curve, at: int) -> list[Element]:
    across = WIDTH - LEFT - RIGHT
    places = [
        (round(LEFT + axes.across(step) * across, 1), _height(axes.up(value)))
        for step, value in curve.points
    ]
    points = " ".join(f"{x},{y}" for x, y in places)
    line = h("polyline", points=points, class_=f"line curve{at}")
    marked = places if curve.measured or len(places) == 1 else []
    return [line, *(h("circle", cx=x, cy=y, r=3.5, class_=f"dot curve{at}") for x, y in marked)]


def _height(up: float) -> float:
    return round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)
