"""The memory estimate, compared with the tensors that PyTorch keeps, and its use in the stages."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from tests.trainer.conftest import MakeWorkshop
from tests.trainer.support import tiny
from trl.trainer import sft_trainer

from finetune_api.v1alpha1.lora import ALL_LINEAR, Lora
from finetune_api.v1alpha1.training import Training
from finetune_trainer.checkpointing import manifest
from finetune_trainer.estimate import backends, memory, shape
from finetune_trainer.runtime.files import read_json

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
}


def kept_bytes(layer: Any, model: Any, hidden: int, tokens: int) -> int:
    """Return the bytes of all tensors, except weights, that the backward pass of a layer needs."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    states = torch.randn(1, tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
    places = torch.arange(tokens)[None]
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        layer(states * 1, position_embeddings=model.rotary_emb(states, places))
    for parameter in layer.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.parametrize("targets", [ALL_LINEAR, ["q_proj", "v_proj"]])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_layer_formula_matches_the_tensors_that_pytorch_keeps(
    tmp_path: Path, targets: list[str], dropout: float
) -> None:
    folder = tiny.model(tmp_path / "base", **SIZES)
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    lora = peft.LoraConfig(r=8, target_modules=targets, lora_dropout=dropout)
    tuned = peft.get_peft_model(model, lora).train()
    inner = tuned.base_model.model.model
    few, many = 64, 192
    sizes = [kept_bytes(inner.layers[0], inner, 256, tokens) for tokens in (few, many)]
    measured = (sizes[1] - sizes[0]) / (many - few)
    found = shape.read(read_json(folder / "config.json"))
    assert found is not None
    recipe = Training(lora=Lora(r=8, dropout=dropout, target_modules=targets))
    expected = memory.stock_layer(found, recipe, many)
    if dropout:
        # The dropout mask is float32 on a CPU, and one byte per element with CUDA.
        expected += 3 * sum(inputs for inputs, _ in found.targets(targets).values())
    assert measured == pytest.approx(expected, rel=0.01)


def test_chunk_of_logits_is_that_of_the_installed_trl() -> None:
    assert backends.TRL_CHUNK == sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE


def test_training_uses_the_micro_batch_of_the_estimate(make: MakeWorkshop) -> None:
    workshop = make()
    prepared = workshop.succeed("prepare", "--card", "NVIDIA-A10G", "--serving-share", "0.88")
    assert "of the 22.49 GiB of NVIDIA-A10G at micro-batch 4" in prepared.message
    estimate = manifest.read(workshop.work / "dataset").facts["estimate"]
    assert estimate["card"] == "NVIDIA-A10G"
    assert estimate["microBatch"] == 4
    assert estimate["servingBytes"] > 0
    workshop.succeed("train")
    assert manifest.read(workshop.work / "adapter").facts["microBatch"] == 4


HALF = {"quantization": {"computeDtype": "float16"}}
"""The compute settings of a T4, which has no bfloat16."""


def test_training_that_does_not_fit_is_refused_before_the_download(make: MakeWorkshop) -> None:
    workshop = make(
        training={
            "sequenceLength": 1_048_576,
            "packing": "always",
            "advanced": {"microBatchSize": 4, **HALF},
        }
    )
    ended = workshop.run("prepare", "--card", "Tesla-T4")
    assert (ended.code, ended.result["reason"]) == (82, "DoesNotFit")
    assert "Tesla-T4 has 15.00 GiB" in ended.message
    assert workshop.published() == []
    assert not list(workshop.work.rglob("*.safetensors"))
    # On an unknown GPU, the same job is accepted.
    assert workshop.run("prepare", "--card", "NVIDIA-Imaginary").code == 0


def test_serving_that_does_not_fit_is_refused_in_prepare(make: MakeWorkshop) -> None:
    workshop = make(training={"advanced": HALF})
    length = ["--serving-length", "1048576"]
    options = ["--card", "Tesla-T4", "--serving-share", "0.001", *length]
    ended = workshop.run("prepare", *options)
    assert (ended.code, ended.result["reason"]) == (82, "DoesNotFit")
    assert "serving needs about" in ended.message
    assert workshop.run("prepare", "--card", "Tesla-T4").code == 0


def test_a_volume_below_the_estimate_is_refused_before_the_download(make: MakeWorkshop) -> None:
    workshop = make()
    ended = workshop.run("prepare", "--volume-size", "1Mi")
    assert (ended.code, ended.result["reason"]) == (73, "VolumeFull")
    assert "spec.storage.size is 1.0Mi: set spec.storage.size to at least " in ended.message
    assert not list(workshop.work.rglob("*.safetensors"))
    size = ended.message.rsplit(" ", 1)[1]
    assert workshop.run("prepare", "--volume-size", size).code == 0
