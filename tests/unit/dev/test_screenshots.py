"""Pictures of the page for the documentation are small, and show objects that the API accepts."""

import io
import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cluster.errors import NotReady
from finetune_api.markers import ApiModel
from finetune_api.v1alpha1.budgets.spec import FineTuneBudgetSpec
from finetune_api.v1alpha1.endpoints.spec import FineTuneEndpointSpec
from finetune_api.v1alpha1.profile import FineTuneProfileSpec
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from screenshots import demo, pictures

SPECS: dict[str, type[ApiModel]] = {
    "FineTuneProfile": FineTuneProfileSpec,
    "FineTuneBudget": FineTuneBudgetSpec,
    "FineTuneEndpoint": FineTuneEndpointSpec,
    "FineTuneJob": FineTuneJobSpec,
}


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


def test_objects_of_the_pictures_are_valid() -> None:
    namespace, *objects = yaml.safe_load_all(demo.MANIFEST.read_text())
    assert namespace["metadata"]["name"] == demo.NAMESPACE
    for manifest in objects:
        SPECS[manifest["kind"]].model_validate(manifest["spec"])
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in objects}
    assert names >= {
        ("FineTuneProfile", demo.PROFILE),
        ("FineTuneJob", demo.JOB),
        ("FineTuneEndpoint", demo.ENDPOINT),
    }
