"""Pictures of the page for the documentation are small, or there are none."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from cluster.errors import NotReady
from screenshots import pictures


def png(image: Image.Image) -> bytes:
    text = io.BytesIO()
    image.save(text, "png")
    return text.getvalue()


def test_picture_has_a_palette(tmp_path: Path) -> None:
    size = (pictures.WINDOW["width"], pictures.WINDOW["height"])
    picture = png(Image.linear_gradient("L").resize(size).convert("RGB"))
    pictures.write(picture, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as written:
        assert (written.size, written.mode) == (size, "P")
    assert (tmp_path / "page.png").stat().st_size < pictures.MOST_BYTES


def test_large_picture_is_refused(tmp_path: Path) -> None:
    noise = Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000))
    with pytest.raises(NotReady, match="bytes, more than 150000"):
        pictures.write(png(noise), tmp_path / "page.png")
