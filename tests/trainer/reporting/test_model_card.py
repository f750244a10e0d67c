"""The descriptive files of the adapter, which its digest excludes."""

import json
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from tests.support.trainer.workshop import Workshop
from transformers import AutoModelForCausalLM

from finetune_api.contracts.job_config import JobConfig
from finetune_api.durations import duration
from finetune_trainer.checkpointing import manifest
from finetune_trainer.reporting import model_card
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.reporting.model_card import TrainingReport


def test_model_card_metadata_is_valid(done: Workshop) -> None:
    card = ModelCard.load(done.work / "adapter" / "README.md")
    assert card.data.base_model == "demo/tiny"
    assert card.data.datasets == ["demo/rows"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.to_dict()["base_model_relation"] == "adapter"


def test_model_card_lists_the_provenance(done: Workshop) -> None:
    text = (done.work / "adapter" / "README.md").read_text()
    found = manifest.read(done.work / "adapter")
    for said in (
        found.facts["baseCommit"],
        found.facts["datasetDigest"],
        done.job["revision"],
        "![Training loss](loss.png)",
        *found.facts["versions"].values(),
    ):
        assert said in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert "token" not in recipe.lower()
    written = yaml.safe_load(recipe)
    frozen = JobConfig.model_validate(done.job).training
    assert written["training"] == frozen.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert written["model"]["source"] == "hf://demo/tiny"
    assert written["dataset"]["format"] == "alpaca"


def test_model_card_names_the_configuration_and_the_split(done: Workshop) -> None:
    def card(**data: Any) -> str:
        facts = {
            name: manifest.read(done.work / name).facts for name in ("base", "dataset", "adapter")
        }
        report = TrainingReport(
            job=JobConfig.model_validate(done.job),
            base=facts["base"],
            data={**facts["dataset"], **data},
            trained=facts["adapter"],
            history=LossHistory(),
            peak=None,
        )
        return model_card.render(report)

    assert "| dataset split | `train` |" in card()
    assert "dataset configuration" not in card()
    record = {"dataset": "dataset", "config": "main", "split": "test", "fileCount": 1, "files": []}
    own = {"source": "hf://a/b", "commit": "c", "digest": "d"}
    of_own = {**record, "dataset": "evaluation.dataset", "config": "socratic"}
    text = card(sources=[record, of_own], origins={"dataset": own, "evaluation.dataset": own})
    for said in (
        "| dataset configuration | `main` |",
        "| dataset split | `test` |",
        "| evaluation dataset configuration | `socratic` |",
        "| evaluation dataset split | `test` |",
    ):
        assert said in text
    several = "datasets[support]"
    text = card(sources=[{**record, "dataset": several}], origins={several: own})
    assert "| dataset support configuration | `main` |" in text
    # A dataset that an earlier version prepared has no record.
    assert "split" not in card(sources=None).split("## Recipe")[0]


def test_model_card_lists_losses_and_estimates(
    done: Workshop,
) -> None:
    text = (done.work / "adapter" / "README.md").read_text()
    trained = manifest.read(done.work / "adapter").facts
    estimate = manifest.read(done.work / "dataset").facts["estimate"]
    for step, loss in LossHistory.load(done.work / "adapter")["loss"]:
        assert f"| {step} | {loss:.4f} | – |" in text
    assert f"| micro-batch | {estimate['microBatch']} | {trained['microBatch']} |" in text
    # Without a GPU, there is no measured peak.
    assert f"| GPU memory | {estimate['trainingBytes'] / 2**30:.2f} GiB | – |" in text
    assert f"| training time | – | {duration(trained['gpuSeconds'])}, including startup" in text


def test_model_card_compares_gpu_memory_with_the_estimate(done: Workshop) -> None:
    facts = {name: manifest.read(done.work / name).facts for name in ("base", "dataset", "adapter")}
    estimate = {"trainingBytes": 12 << 30, "seconds": 3720.0, "card": "NVIDIA-A10G"}
    text = model_card.render(
        TrainingReport(
            job=JobConfig.model_validate(done.job),
            base=facts["base"],
            data=facts["dataset"] | {"estimate": estimate},
            trained=facts["adapter"] | {"gpuSeconds": 3840.0, "device": "NVIDIA A10G"},
            history=LossHistory(),
            peak=13 << 30,
            template="chat_template.jinja",
        )
    )
    assert 'open("path/to/this/folder/chat_template.jinja").read()' in text
    assert "| GPU memory | 12.00 GiB | 13.00 GiB |" in text
    assert "| training time | 1h02m | 1h04m, including startup" in text
    assert "| card | NVIDIA-A10G | NVIDIA A10G |" in text


def test_the_code_in_the_card_loads_the_model_that_was_merged(done: Workshop) -> None:
    """On the published weights, the adapter is another model."""
    adapter = done.work / "adapter"
    text, after = (adapter / "README.md").read_text().split("```python\n")[1].split("```")[:2]
    assert "Load the base in 4 bits, as above" in after
    text = text.replace("path/to/this/folder", str(adapter))
    names: dict[str, Any] = {}
    exec(text.replace("demo/tiny", str(done.work / "base")), names)
    published = AutoModelForCausalLM.from_pretrained(done.work / "base", dtype=torch.float32)
    other = PeftModel.from_pretrained(published, str(adapter))
    merged = AutoModelForCausalLM.from_pretrained(done.work / "merged-b1", dtype=torch.float32)
    assert names["tokenizer"](" the").input_ids
    tokens = torch.arange(5, 45).unsqueeze(0)
    with torch.no_grad():
        expected = merged(tokens).logits
        as_shown, wrong = (
            (each(tokens).logits.float() - expected).abs().mean()
            for each in (names["model"], other)
        )
    assert as_shown < wrong / 4


def test_loss_plot_and_history_are_published_with_the_adapter(done: Workshop) -> None:
    folder = done.work / "adapter"
    names = {entry.name for entry in manifest.verify(folder, kind="adapter", key=None).files}
    assert {"loss.png", "loss_history.json", "README.md"} < names
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    curves = LossHistory.load(folder)
    assert [step for step, _ in curves["loss"]] == [1, 2, 3, 4, 5, 6]
    assert curves["loss"][-1][1] == manifest.read(folder).facts["loss"]


def test_descriptions_are_excluded_from_the_adapter_digest(done: Workshop) -> None:
    document = json.loads((done.work / "adapter" / manifest.FILE).read_text())
    before = manifest.read(done.work / "adapter").digest
    for entry in document["files"]:
        if entry["name"] in manifest.DESCRIPTIONS:
            entry["sha256"] = "0" * 64
    files = tuple(manifest.Entry(**entry) for entry in document["files"])
    other = manifest.Manifest(kind="adapter", key="", files=files, facts={})
    assert other.digest == before == document["digest"]


def test_cards_of_stages_without_an_operator_name_no_images(done: Workshop) -> None:
    for folder in ("adapter", "merged-b1"):
        assert "image of the" not in (done.work / folder / "README.md").read_text()
        assert manifest.read(done.work / folder).facts["images"] == {}


def test_card_of_the_merged_model_lists_its_origin(done: Workshop) -> None:
    card = ModelCard.load(done.work / "merged-b1" / "README.md")
    assert card.data.base_model == "demo/tiny"
    assert (card.data.library_name, card.data.datasets) == ("transformers", ["demo/rows"])
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    found = manifest.read(done.work / "merged-b1")
    for fact in ("source", "baseCommit", "datasetDigest", "adapter", "dtype"):
        assert found.facts[fact].removeprefix("hf://") in card.text
    entries = [entry for entry in found.files if entry.name != "README.md"]
    assert manifest.Manifest(kind="", key="", files=tuple(entries), facts={}).digest == found.digest
