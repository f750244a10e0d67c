"""What lies beside an adapter for people, and that it is no part of what the adapter is."""

import json

from huggingface_hub import ModelCard
from tests.trainer.workshop import Workshop

from finetune_trainer import manifest
from finetune_trainer.curves import Curves


def test_a_hub_can_read_the_card(done: Workshop) -> None:
    card = ModelCard.load(done.work / "adapter" / "README.md")
    assert card.data.base_model == "demo/tiny"
    assert card.data.datasets == ["demo/rows"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.to_dict()["base_model_relation"] == "adapter"


def test_the_card_says_where_the_adapter_comes_from(done: Workshop) -> None:
    text = (done.work / "adapter" / "README.md").read_text()
    found = manifest.read(done.work / "adapter")
    for said in (
        found.facts["baseCommit"],
        found.facts["datasetDigest"],
        done.job["revision"],
        "![Loss over the steps](loss.png)",
        *found.facts["versions"].values(),
    ):
        assert said in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert "learningRate: 0.01" in recipe
    assert "token" not in recipe.lower()


def test_the_picture_and_its_numbers_are_published_with_the_adapter(done: Workshop) -> None:
    folder = done.work / "adapter"
    names = {entry.name for entry in manifest.verify(folder, kind="adapter", key=None).files}
    assert {"loss.png", "curves.json", "README.md"} < names
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    curves = Curves.load(folder)
    assert [step for step, _ in curves["loss"]] == [1, 2, 3, 4, 5, 6]
    assert curves["loss"][-1][1] == manifest.read(folder).facts["loss"]


def test_they_are_no_part_of_the_adapters_digest(done: Workshop) -> None:
    document = json.loads((done.work / "adapter" / manifest.FILE).read_text())
    before = manifest.read(done.work / "adapter").digest
    for entry in document["files"]:
        if entry["name"] in manifest.DESCRIPTIONS:
            entry["sha256"] = "0" * 64
    files = tuple(manifest.Entry(**entry) for entry in document["files"])
    other = manifest.Manifest(kind="adapter", key="", files=files, facts={})
    assert other.digest == before == document["digest"]
