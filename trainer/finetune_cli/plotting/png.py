"""Curves as PNG. Equal curves give equal bytes with one version of Pillow."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageDraw import ImageDraw as Canvas

from finetune_cli.plotting import figure
from finetune_cli.plotting.curves import Curve
from finetune_cli.plotting.figure import Dot, Label, Line, Place, Shape, Square

SCALE = 2
"""Pixels of the picture by unit of the figure."""
SMOOTHING = 2
"""Pixels that are drawn by pixel of the picture: Pillow draws lines without smooth edges."""
UNIT = SCALE * SMOOTHING
ANCHORS = {"start": "ls", "end": "rs"}
"""Of Pillow: left or right, at the baseline."""


def draw(curves: Sequence[Curve], *, title: str) -> bytes:
    """Return a PNG file."""
    image = Image.new("RGB", (figure.WIDTH * UNIT, figure.HEIGHT * UNIT), "white")
    canvas = ImageDraw.Draw(image)
    for shape in figure.shapes(curves, title=title):
        _draw(canvas, shape)
    written = io.BytesIO()
    image.reduce(SMOOTHING).save(written, "png", optimize=True)
    return written.getvalue()


def _draw(canvas: Canvas, shape: Shape) -> None:
    match shape:
        case Label(x=x, y=y, text=text, anchor=anchor, size=size):
            # The font is part of Pillow.
            font = ImageFont.load_default(size * UNIT)
            canvas.text(_scaled((x, y)), text, "black", font, ANCHORS[anchor])
        case Line(places=places, color=color, width=width):
            thickness = round(width * UNIT)
            canvas.line([_scaled(place) for place in places], color, thickness, "curve")
        case Dot(place=place, color=color, radius=radius):
            canvas.circle(_scaled(place), radius * UNIT, color)
        case Square(place=(x, y), color=color, size=size):
            canvas.rectangle((_scaled((x, y)), _scaled((x + size, y + size))), color)


def _scaled(place: Place) -> Place:
    x, y = place
    return x * UNIT, y * UNIT
