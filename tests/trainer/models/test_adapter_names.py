"""An adapter is loaded completely or not at all; PEFT alone ignores tensors of other names."""

import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.trainer import tiny
from tests.support.trainer.workshop import Workshop
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.checkpointing import manifest
from finetune_trainer.evaluation.layerwise_model import LayerwiseModel, UnsupportedFamily
from finetune_trainer.models import adapter_names
from finetune_trainer.quantization.quant_state import DequantizedBase

FILE = "adapter_model.safetensors"
BEGIN = "base_model.model.model.layers"


def adapted(**lora: object) -> peft.PeftModel:
    model = LlamaForCausalLM(LlamaConfig(**tiny.SHAPE))
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **lora)
    return peft.get_peft_model(model, config)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT asks the hub about the vocabulary of a base that is not a local folder."""

    def asked(*_: object) -> bool:
        raise AssertionError("PEFT asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)


@pytest.mark.parametrize(
    "lora",
    [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens", "lm_head"]}],
    ids=["lora", "dora", "modules-to-save"],
)
def test_saved_adapter_fits_its_model(tmp_path: Path, lora: dict[str, object]) -> None:
    model = adapted(**lora)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    model.peft_config["default"].base_model_name_or_path = "demo/published"
    assert adapter_names.difference(model, tmp_path) is None
    assert adapter_names.difference(adapted(**lora), tmp_path) is None


def test_embeddings_saved_beside_the_adapter_are_accepted(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    assert f"{BEGIN[:-6]}embed_tokens.weight" in load_file(tmp_path / FILE)
    assert adapter_names.difference(model, tmp_path) is None


def test_tensors_that_only_one_of_both_contains_are_named(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    tensors = load_file(tmp_path / FILE)
    whole = {name.replace(".layers.", ".language_model.layers."): tensors[name] for name in tensors}
    save_file(whole, tmp_path / FILE)
    assert adapter_names.difference(model, tmp_path) == (
        "the adapter contains the tensor base_model.model.model.language_model.layers.0.self_attn."
        "q_proj.lora_A.weight and 3 more tensors, which the model does not contain; the model "
        f"contains the tensor {BEGIN}.0.self_attn.q_proj.lora_A.weight and 3 more tensors, which "
        "the adapter does not contain"
    )
    del tensors[f"{BEGIN}.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, tmp_path / FILE)
    assert adapter_names.difference(model, tmp_path) == (
        f"the model contains the tensor {BEGIN}.1.self_attn.q_proj.lora_B.weight, which the "
        "adapter does not contain"
    )


def test_reference_is_not_computed_with_a_part_of_an_adapter(
    done: Workshop, tmp_path: Path
) -> None:
    folder = shutil.copytree(done.work / "adapter", tmp_path / "adapter")
    tensors = load_file(folder / FILE)
    foreign = f"{BEGIN}.2.self_attn.q_proj.lora_A.weight"
    tensors[foreign] = tensors[foreign.replace(".2.", ".1.")].clone()
    save_file(tensors, folder / FILE)
    rounded = DequantizedBase(manifest.read(folder), folder)
    with pytest.raises(UnsupportedFamily, match=f"the adapter contains the tensor {foreign}"):
        LayerwiseModel(done.work / "base", folder, rounded, device=torch.device("cpu"))
