"""crane pulls a published image, and gets the files of the volume."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.consumers.images import Image
from tests.support.trainer.publishing import BUILD, Volume

from finetune_trainer.checkpointing import manifest


@pytest.mark.parametrize("what", ["adapter", "merged"])
def test_pulled_files_have_the_digests_of_the_ledger(
    publish: Callable[[str], Image],
    crane: Callable[..., bytes],
    volume: Volume,
    tmp_path: Path,
    what: str,
) -> None:
    image = publish(what)
    assert crane("digest", image.reference).decode().strip() == image.digest
    tag = f"{image.reference.partition('@')[0]}:latest-{what}"
    assert crane("digest", tag).decode().strip() == image.digest
    (tmp_path / "image.tar").write_bytes(crane("export", image.reference, "-"))
    with tarfile.open(tmp_path / "image.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "models"
    text = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == image.manifest
    assert json.loads(text)["facts"]["publishedFrom"] == image.content
    assert manifest.verify(folder, kind=what, key=None).files
    source = volume.layout.adapter if what == "adapter" else volume.layout.merged(BUILD)
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    assert weights
    for name in weights:
        assert (folder / name).read_bytes() == (source / name).read_bytes()


def test_an_image_copied_to_another_repository_keeps_its_digest(
    publish: Callable[[str], Image], crane: Callable[..., bytes]
) -> None:
    image = publish("adapter")
    copy = f"{image.reference.partition('/')[0]}/mirror/tiny:copied"
    crane("copy", image.reference, copy)
    assert crane("digest", copy).decode().strip() == image.digest


def test_manifest_configuration_and_layers_agree(
    publish: Callable[[str], Image], crane: Callable[..., bytes]
) -> None:
    """``crane validate`` without ``--fast`` decompresses each layer, whatever its media type is.

    So it rejects every image with plain tar layers. What it would compare besides is compared here.
    """
    image = publish("merged")
    assert b"PASS" in crane("validate", "--fast", "--remote", image.reference)
    layers = json.loads(crane("manifest", image.reference))["layers"]
    assert {each["mediaType"] for each in layers} == {"application/vnd.oci.image.layer.v1.tar"}
    diffs = json.loads(crane("config", image.reference))["rootfs"]["diff_ids"]
    repository = image.reference.partition("@")[0]
    for layer, diff in zip(layers, diffs, strict=True):
        data = crane("blob", f"{repository}@{layer['digest']}")
        assert len(data) == layer["size"]
        assert diff == layer["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = archive.getnames()
        assert len(names) == len({*names})
