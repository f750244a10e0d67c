"""Curves as text, as SVG and as PNG."""

import io
import math

import pytest
from PIL import Image, ImageColor

from finetune_cli.plotting import figure, png, svg, text
from finetune_cli.plotting.curves import Curve, between, frame


def curves(steps: int) -> list[Curve]:
    fall = [(step, 1 + math.exp(-step / 40)) for step in range(1, steps + 1)]
    return [
        Curve(name="training", points=fall),
        Curve(name="held-out", points=fall[::50], measured=True),
    ]


@pytest.mark.parametrize("width", [1, 20, 40, 80, 120])
@pytest.mark.parametrize("steps", [1, 2, 300, 5000])
@pytest.mark.parametrize("braille", [True, False])
def test_a_plot_has_its_height_and_width(width: int, steps: int, braille: bool) -> None:
    lines = text.plot(curves(steps), width=width, height=10, braille=braille)
    assert max(map(len, lines[:11])) <= max(width, text.LABEL + 2 + 12)
    assert "".join(lines).isascii() != braille
    assert len(lines) >= 12


def test_a_falling_curve_falls() -> None:
    rows = text.plot(curves(300)[:1], width=60, height=12, braille=False)[:12]
    columns = [row.split("|")[1] for row in rows]
    assert columns[0].startswith("*")
    assert columns[-1].endswith("*")
    heights = [
        min(at for at, row in enumerate(columns) if row.ljust(51)[column] == "*")
        for column in range(51)
    ]
    assert heights == sorted(heights)


def test_labels_are_the_largest_the_middle_and_the_smallest_value() -> None:
    points = [(1, 4.0), (3, 2.0)]
    lines = text.plot([Curve(name="a", points=points)], width=40, height=11, braille=True)
    labels = [line.split("│")[0].strip() for line in lines[:11]]
    assert labels == ["4", *[""] * 4, "3", *[""] * 4, "2"]


def test_curves_without_points_are_no_plot() -> None:
    assert frame([Curve(name="a", points=[])]) is None
    assert text.plot([Curve(name="a", points=[])], width=40, height=9, braille=True) == []
    assert "<svg" in svg.draw([], title="nothing")


@pytest.mark.parametrize(("step", "value"), [(0, None), (1, 4.0), (2, 3.0), (3, 2.0), (4, None)])
def test_values_between_points_are_on_a_line(step: int, value: float | None) -> None:
    assert between([(1, 4.0), (3, 2.0)], step) == value


def test_svg_escapes_names_and_is_the_same_each_time() -> None:
    found = svg.draw([Curve(name="<b>&", points=[(1, 1.0)])], title="<script>")
    assert found == svg.draw([Curve(name="<b>&", points=[(1, 1.0)])], title="<script>")
    assert "<script>" not in found
    assert "&lt;b&gt;&amp;" in found


def test_png_shows_the_curves_of_the_svg_at_their_places() -> None:
    falling = Curve(name="a", points=[(1, 4.0), (5, 2.0)])
    rising = Curve(name="b", points=[(1, 2.0), (5, 4.0)], measured=True)
    content = png.draw([falling, rising], title="FineTuneJob demo")
    assert content == png.draw([falling, rising], title="FineTuneJob demo")
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.size) == ("PNG", (figure.WIDTH * 2, figure.HEIGHT * 2))
    top, bottom = figure.TOP, figure.HEIGHT - figure.BOTTOM
    for color, left, right in zip(figure.COLORS, (top, bottom), (bottom, top), strict=False):
        for share in (0.05, 0.25, 0.75, 0.95):
            x = figure.LEFT + share * (figure.WIDTH - figure.LEFT - figure.RIGHT)
            pixel = image.getpixel((round(x * 2), round((left + share * (right - left)) * 2)))
            assert pixel == ImageColor.getrgb(color)
    title = image.crop((figure.LEFT * 2, 0, figure.WIDTH * 2, figure.TOP * 2 - 10)).convert("L")
    assert min(title.tobytes()) == 0, "it is written"


def test_png_without_points_and_with_a_name_that_the_font_lacks() -> None:
    named = Curve(name="\x1b[2J \u6f22", points=[(1, 1.0)])
    for shown in ([], [named]):
        assert png.draw(shown, title="\u6f22\n").startswith(b"\x89PNG")
