"""Curves as SVG: sharp at any size."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from finetune_cli.plotting import figure
from finetune_cli.plotting.curves import Curve
from finetune_cli.plotting.figure import Dot, Label, Line, Shape, Square


def draw(curves: Sequence[Curve], *, title: str) -> str:
    """Return an SVG document. Equal curves give equal text."""
    parts = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {figure.WIDTH} {figure.HEIGHT}" '
        f'font-family="sans-serif" font-size="{figure.SIZE}">',
        '<rect width="100%" height="100%" fill="white"/>',
        *map(_element, figure.shapes(curves, title=title)),
        "</svg>",
        "",
    )
    return "\n".join(parts)


def _element(shape: Shape) -> str:
    match shape:
        case Label(x=x, y=y, text=text, anchor=anchor, size=size):
            place = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"'
            return f"<text {place}>{escape(text)}</text>"
        case Line(places=places, color=color, width=width):
            points = " ".join(f"{x},{y}" for x, y in places)
            stroke = f'stroke="{color}" stroke-width="{width}"'
            return f'<polyline points="{points}" fill="none" {stroke}/>'
        case Dot(place=(x, y), color=color, radius=radius):
            return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{color}"/>'
        case Square(place=(x, y), color=color, size=size):
            return f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{color}"/>'
