"""Curves as SVG: sharp text at any size, in 80 lines. A PNG would need a library, or a font."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from finetune_cli.plotting.curves import Curve, Frame, frame

WIDTH, HEIGHT = 800, 420
LEFT, TOP, RIGHT, BOTTOM = 70, 50, 20, 50
COLORS = ("#1f3a5f", "#d1495b", "#3a7d44", "#b07d1c")
TICKS = 5


def draw(curves: Sequence[Curve], *, title: str) -> str:
    """Return an SVG document. Equal curves give equal text."""
    shown = [curve for curve in curves if curve.points]
    axes = frame(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(LEFT, 24, title, size=15),
    ]
    if axes is not None:
        parts += _ticks(axes)
        for curve, color in zip(shown, COLORS, strict=False):
            parts += _curve(curve, axes, color)
    parts += _legend(shown)
    return "\n".join([*parts, "</svg>", ""])


def _place(axes: Frame, step: int, value: float) -> tuple[float, float]:
    across = LEFT + axes.across(step) * (WIDTH - LEFT - RIGHT)
    return round(across, 1), round(_height(axes.up(value)), 1)


def _height(up: float) -> float:
    return HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _ticks(axes: Frame) -> list[str]:
    parts = []
    for at in range(TICKS):
        share = at / (TICKS - 1)
        y = round(_height(share), 1)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#e6e6e6"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{axes.value(share):.4g}", anchor="end"))
    bottom = HEIGHT - BOTTOM + 18
    parts.append(_text(LEFT, bottom, f"step {axes.first}"))
    parts.append(_text(WIDTH - RIGHT, bottom, str(axes.last), anchor="end"))
    return parts


def _curve(curve: Curve, axes: Frame, color: str) -> list[str]:
    places = [_place(axes, step, value) for step, value in curve.points]
    line = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>']
    if curve.measured or len(places) == 1:
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{color}"/>' for x, y in places]
    return parts


def _legend(curves: Sequence[Curve]) -> list[str]:
    parts, x = [], LEFT
    for curve, color in zip(curves, COLORS, strict=False):
        parts.append(f'<rect x="{x}" y="{HEIGHT - 18}" width="10" height="10" fill="{color}"/>')
        parts.append(_text(x + 15, HEIGHT - 9, curve.name))
        x += 35 + 7 * len(curve.name)
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
