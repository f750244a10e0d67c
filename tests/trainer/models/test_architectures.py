"""All stages for each model family on each backend, with a kill during the training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.trainer import architectures
from tests.support.trainer.faults import KilledAfterCheckpoint
from tests.support.trainer.hub import Hub
from tests.support.trainer.logits import logits_of_all
from tests.support.variants import variants
from tests.trainer.conftest import MakeWorkshop

from finetune_trainer.compatibility import backend_choice

BACKENDS = ["trl", "unsloth"]
IN_FULL = ["mistral", "qwen3", "phi", "phi3"]
"""Families that train a separate head and the embedding in full."""
FEW = ["llama", "qwen3"]


@pytest.mark.parametrize(
    ("family", "saved", "said"),
    [
        ("qwen2", ["lm_head"], "the embedding and the head of model demo/qwen2 are one tensor"),
        # The default of the family says so, not the config.json.
        (
            "gemma",
            ["embed_tokens"],
            "the embedding and the head of model demo/gemma are one tensor",
        ),
        (
            "gpt_neox",
            ["embed_tokens", "lm_head"],
            "contains embed_tokens, which model demo/gpt_neox does not have (its embedding is "
            "embed_in, its head is lm_head)",
        ),
    ],
)
def test_modules_to_save_that_cannot_be_trained_are_refused_before_the_download(
    make: MakeWorkshop, hub: Hub, tmp_path: Path, family: str, saved: list[str], said: str
) -> None:
    folder = architectures.model(tmp_path / family, family)
    config = json.loads((folder / "config.json").read_text())
    if family == "gemma":
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
    source = hub.add("model", f"demo/{family}", folder)
    workshop = make(model={"source": source}, training={"lora": {"modulesToSave": saved}})
    ended = workshop.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert said in ended.message
    assert not list(workshop.work.rglob("*.safetensors"))


def test_unsloth_families_are_those_of_the_tests(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    assert architectures.FAMILIES.keys() == backend_choice.UNSLOTH_FAMILIES
    source = hub.add("model", "demo/olmo2", architectures.model(tmp_path / "olmo2", "olmo2"))
    workshop = make(model={"source": source}, training={"advanced": {"backend": "unsloth"}})
    ended = workshop.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "Unsloth is not tested with model family olmo2: set backend to auto" in ended.message
    unset = make(model={"source": source}, training={"advanced": {"backend": "auto"}})
    assert unset.succeed("prepare").result["artifacts"]["backend"]["name"] == "trl"


@pytest.fixture(scope="module")
def bases(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {
        family: hub.add("model", f"demo/{family}", architectures.model(root / family, family))
        for family in architectures.FAMILIES
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", variants(architectures.FAMILIES, kept=FEW))
def test_family_is_prepared_trained_and_merged_on_each_backend(
    make: MakeWorkshop, bases: dict[str, str], family: str, backend: str
) -> None:
    lora: dict[str, Any] = {"targetModules": ["all-linear"]}
    if family in IN_FULL:
        lora["modulesToSave"] = ["embed_tokens", "lm_head"]
    recipe = {
        "maxSteps": 4,
        # Unsloth does not pack rows of this family.
        "packing": "never" if (family, backend) == ("gemma2", "unsloth") else "always",
        "lora": lora,
        "advanced": {"backend": backend, "saveSteps": 2},
    }
    workshop = make(model={"source": bases[family]}, training=recipe)
    workshop.succeed("prepare")
    assert workshop.with_fault(KilledAfterCheckpoint(step=2)).run("train").code == -9
    resumed = workshop.succeed("train")
    assert "resuming from the checkpoint of step 2" in resumed.log
    assert resumed.result["artifacts"]["referenceManifest"]
    workshop.succeed("merge", build="b")
    untuned, trained, merged = logits_of_all(workshop, "b")
    assert torch.isfinite(trained).all()
    # The remaining difference is the rounding of the weights to 16 bits.
    assert (merged - trained).abs().max() < 0.05
    assert (merged - untuned).abs().max() > 0.1
