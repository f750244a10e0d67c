"""Attention kernel and packing: ``prepare`` decides by model family, ``train`` follows."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.support.trainer import tiny
from tests.support.trainer.faults import UnknownFamily
from tests.support.trainer.hub import Hub
from tests.trainer.conftest import MakeWorkshop

from families import tiny as tiny_families
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.attention import families
from finetune_trainer.attention.kernels import Support
from finetune_trainer.attention.layers import Layers
from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import InvalidSpec

LLAMA: dict[str, Any] = {"model_type": "llama", "head_dim": 16}
PLAIN = Layers(recurrent=(), largest_head=16, sdpa=True)
VERSION = families.table().transformers


@pytest.fixture
def sources(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {family: _model(hub, tmp_path, family) for family in ("lfm2", "bloom", "bert")}


def _model(hub: Hub, folder: Path, family: str) -> str:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(
        tiny_families.config(family, vocab_size=320), dtype=torch.bfloat16
    )
    made.get_input_embeddings().weight.data.normal_(std=0.02)
    made.save_pretrained(folder / family)
    tiny.tokenizer().save_pretrained(folder / family)
    return hub.add("model", f"demo/{family}", folder / family)


def _recipe(**fields: Any) -> dict[str, Any]:
    return {"maxSteps": 400, "lora": {"targetModules": ["all-linear"]}, **fields}


def test_rows_of_a_model_with_other_layers_are_not_packed(
    make: MakeWorkshop, sources: dict[str, str]
) -> None:
    recipe = _recipe(packing="auto", maxSteps=200)
    workshop = make(model={"source": sources["lfm2"]}, training=recipe)
    prepared = workshop.succeed("prepare")
    assert "it has layers that are not attention" in prepared.log
    assert manifest.read(workshop.work / "dataset").facts["packed"] is False
    decided = json.loads((workshop.work / "dataset" / "attention.json").read_text())
    assert (decided["packed"], decided["transformers"]) == ([], VERSION)
    always = make(model={"source": sources["lfm2"]}, training=_recipe(packing="always"))
    ended = always.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "training.packing is always, but rows cannot be packed" in ended.message
    assert "Set packing to auto or never" in ended.message
    assert not list(always.work.rglob("*.safetensors"))


def test_kernel_that_is_wrong_for_the_family_is_refused_and_not_chosen(
    make: MakeWorkshop, sources: dict[str, str]
) -> None:
    flash = _recipe(advanced={"backend": "trl", "attnImplementation": "flash_attention_2"})
    ended = make(model={"source": sources["bloom"]}, training=flash).run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "attnImplementation is flash_attention_2, which cannot train the base" in ended.message
    assert "Set attnImplementation to auto" in ended.message
    recipe = _recipe(maxSteps=2, advanced={"backend": "trl"})
    workshop = make(model={"source": sources["bloom"]}, training=recipe)
    workshop.succeed("prepare")
    assert "attention kernel: eager" in workshop.succeed("train").log


def test_model_whose_tokens_see_later_tokens_is_refused(
    make: MakeWorkshop, sources: dict[str, str]
) -> None:
    ended = make(model={"source": sources["bert"]}, training=_recipe()).run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "family bert, which cannot be trained: its tokens see later tokens" in ended.message


def test_family_that_was_not_measured_trains_with_sdpa_unpacked_and_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_choice, "installed", lambda: "5.99.0")
    found = attention_choice.choose(LLAMA, PLAIN)
    assert (found.padded, found.packed) == (("sdpa", "eager"), ())
    (warning,) = attention_choice.warnings(found)
    assert warning.startswith("the attention kernels are not tested with transformers 5.99.0: ")
    assert "uses the kernel sdpa and does not pack rows" in warning
    without = attention_choice.choose(LLAMA, Layers(recurrent=(), largest_head=16, sdpa=False))
    assert without.padded == ("eager",)


def test_family_outside_the_table_trains_with_sdpa_and_unpacked_if_its_names_match(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    recipe = _recipe(packing="auto", maxSteps=200)
    workshop = make(training=recipe).with_fault(UnknownFamily("llama"))
    prepared = workshop.succeed("prepare")
    (warning,) = [each for each in prepared.result["warnings"] if "not tested" in each]
    assert warning == (
        "the attention kernels are not tested with model family llama: the training uses the "
        "kernel sdpa and does not pack rows, which is slower than FlashAttention-2 with packed rows"
    )
    assert manifest.read(workshop.work / "dataset").facts["packed"] is False
    decided = json.loads((workshop.work / "dataset" / "attention.json").read_text())
    assert (decided["padded"], decided["packed"]) == (["sdpa", "eager"], [])
    folder = tiny.model(tmp_path / "other", shard="10GB")
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("o_proj", "out_proj"): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    source = hub.add("model", "demo/other-names", folder)
    other = make(model={"source": source}, training=recipe).with_fault(UnknownFamily("llama"))
    ended = other.run("prepare")
    assert (ended.code, ended.result["reason"]) == (64, "InvalidSpec")
    assert "the weights lack model.layers.0.self_attn.o_proj.weight" in ended.message


def test_family_of_the_table_is_packed(make: MakeWorkshop) -> None:
    workshop = make(training=_recipe(packing="auto", maxSteps=200))
    prepared = workshop.succeed("prepare")
    assert not any("not tested" in each for each in prepared.result["warnings"])
    assert manifest.read(workshop.work / "dataset").facts["packed"] is True


@pytest.mark.parametrize(
    ("layers", "padded", "packed", "reason"),
    [
        (PLAIN, ("varlen", "sdpa", "eager"), ("varlen", "sdpa", "eager"), ""),
        (
            Layers(recurrent=("NewMamba",), largest_head=16, sdpa=True),
            ("varlen", "sdpa", "eager"),
            (),
            "layers that are not attention (NewMamba)",
        ),
        (
            Layers(recurrent=(), largest_head=512, sdpa=True),
            ("sdpa", "eager"),
            ("sdpa", "eager"),
            "the base has heads of 512",
        ),
    ],
)
def test_layers_of_the_model_count_in_addition_to_its_family(
    layers: Layers, padded: tuple[str, ...], packed: tuple[str, ...], reason: str
) -> None:
    found = attention_choice.choose(LLAMA, layers)
    assert (found.padded, found.packed) == (padded, packed)
    assert reason in found.reason
    assert attention_choice.warnings(found) == []


def test_dropout_that_is_on_by_default_counts() -> None:
    assert attention_choice.choose({"model_type": "gpt2"}, PLAIN).capped
    assert not attention_choice.choose({"model_type": "gpt2", "attn_pdrop": 0.0}, PLAIN).capped


def test_training_follows_the_decision(tmp_path: Path) -> None:
    decided = Support(padded=("sdpa",), packed=("sdpa",), capped=True, reason="it is special")
    attention_choice.save(tmp_path, decided)
    assert attention_choice.load(tmp_path, LLAMA, packed=True) == decided


def test_another_transformers_at_the_training_uses_sdpa_and_refuses_packed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention_choice.save(tmp_path, Support())
    monkeypatch.setattr(attention_choice, "installed", lambda: "5.99.0")
    found = attention_choice.load(tmp_path, LLAMA, packed=False)
    assert (found.padded, found.packed) == (("sdpa", "eager"), ())
    with pytest.raises(
        InvalidSpec,
        match=r"packed the rows with another trainer image, .* with transformers 5\.99\.0 .*"
        r"use the image of the prepare stage, or set training\.packing to never",
    ):
        attention_choice.load(tmp_path, LLAMA, packed=True)


def test_rows_of_a_trainer_without_the_table_are_checked(tmp_path: Path) -> None:
    assert attention_choice.load(tmp_path, LLAMA, packed=True) == Support()
    hybrid = {"model_type": "qwen3_next"}
    assert attention_choice.load(tmp_path, hybrid, packed=False).packed == ()
    with pytest.raises(InvalidSpec, match="keeps packed rows apart"):
        attention_choice.load(tmp_path, hybrid, packed=True)
