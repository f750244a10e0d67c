"""The memory formula, part by part, against figures that are computed here."""

from typing import Any, get_args

import pytest
from tests.unit.trainer import shapes

from finetune_api.v1alpha1.lora import Lora
from finetune_api.v1alpha1.training import AdvancedTraining, Optimizer, Quantization, Training
from finetune_trainer.estimate import backends, memory, shape
from finetune_trainer.estimate.memory import GIB, Memory

TABLE = 128256 * 4096
"""Weights of the embedding of Llama 3 8B, and of its head."""
LINEAR = 6_979_321_856
"""Weights of all linear layers of Llama 3 8B but the head."""
IN_32_BITS = {"adamw": 8, "lion": 4, "ademamix": 12}
IN_8_BITS = {"adamw": 2 + 8 / 256, "lion": 1 + 4 / 256, "ademamix": 3 + 12 / 256}
"""Bytes per weight: AdamW has two states, Lion one, AdEMAMix three."""


@pytest.fixture(scope="module")
def llama3() -> shape.Shape:
    found = shape.read(shapes.LLAMA3_8B)
    assert found is not None
    return found


def step(
    llama3: shape.Shape, *, backend: str = "trl", lora: Lora | None = None, **advanced: Any
) -> Memory:
    recipe = Training(lora=lora or Lora(), advanced=AdvancedTraining(**advanced))
    return memory.training(llama3, recipe, backends.FORMULAS[backend], micro_batch=2, length=1024)


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_optimizer_state_per_weight(llama3: shape.Shape, name: str) -> None:
    recipe = Training(advanced=AdvancedTraining(optimizer=name))
    family = next(each for each in ("ademamix", "adamw", "lion") if each in name)
    bytes_of = IN_8_BITS if name.endswith("8bit") else IN_32_BITS
    trained = memory.trained_parameters(llama3, recipe)
    assert memory.optimizer_bytes(llama3, recipe) == pytest.approx(trained * bytes_of[family])


@pytest.mark.parametrize("family", ["adamw", "ademamix", "lion"])
def test_state_of_a_trained_embedding_has_32_bits(llama3: shape.Shape, family: str) -> None:
    def size(saved: list[str] | None) -> float:
        recipe = Training(
            lora=Lora(modules_to_save=saved),
            advanced=AdvancedTraining(optimizer=f"paged_{family}_8bit"),
        )
        return memory.optimizer_bytes(llama3, recipe)

    assert size(["lm_head"]) - size(None) == pytest.approx(TABLE * IN_8_BITS[family])
    assert size(["embed_tokens"]) - size(None) == pytest.approx(TABLE * IN_32_BITS[family])


def test_weights_have_four_bits_and_their_constants(llama3: shape.Shape) -> None:
    double = step(llama3).weights
    single = step(llama3, quantization=Quantization(double_quant=False)).weights
    # One float32 for each 64 weights, or one byte, and a float32 for each 256 of these.
    assert single == LINEAR // 2 + LINEAR * 4 // 64
    assert double == int(LINEAR / 2 + LINEAR / 64 + LINEAR * 4 / 64 / 256)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_compute_dtype(llama3: shape.Shape, dtype: str, size: int) -> None:
    found = step(llama3, quantization=Quantization(compute_dtype=dtype))
    assert found.embeddings == size * llama3.other_parameters
    inputs = 32 * 4096 * size * 2048
    recipe = Training(advanced=AdvancedTraining(quantization=Quantization(compute_dtype=dtype)))
    assert found.activations == inputs + 2048 * memory.stock_layer(llama3, recipe, 1024)
    others = found.total - found.overhead
    fixed = int(0.6 * GIB) + llama3.largest_linear * size
    assert found.overhead == pytest.approx(fixed + 0.05 * (others + llama3.largest_linear * size))


def test_activations_are_inputs_of_layers_or_whole_layers(llama3: shape.Shape) -> None:
    plain = Training(advanced=AdvancedTraining(gradient_checkpointing=False))
    layer = 2048 * memory.stock_layer(llama3, plain, 1024)
    assert step(llama3, gradient_checkpointing=False).activations == 32 * layer
    assert step(llama3).activations == 32 * 4096 * 2 * 2048 + layer
    fused = 2048 * memory.fused_layer(llama3, plain, 1024)
    assert step(llama3, backend="unsloth").activations == fused, "inputs are in host memory"


def test_adapter_has_weights_and_gradients_in_float32(llama3: shape.Shape) -> None:
    small, large = (step(llama3, lora=Lora(r=r)).adapter for r in (8, 16))
    # Rank × (inputs + outputs) of the seven projections of 32 layers, twice 4 bytes each.
    sizes = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336)]
    sizes += [(4096, 14336), (14336, 4096)]
    assert small == 8 * 8 * 32 * sum(inputs + outputs for inputs, outputs in sizes)
    assert large == 2 * small


@pytest.mark.parametrize(("tokens", "in_chunk"), [(100, 100), (256, 256), (4096, 256)])
def test_trl_keeps_the_logits_of_256_tokens(
    llama3: shape.Shape, tokens: int, in_chunk: int
) -> None:
    logits = 24 * 128256 * in_chunk
    assert backends.trl_head(llama3, tokens) == logits + 10 * 4096 * tokens


@pytest.mark.parametrize(("tokens", "chunk"), [(100, 16 * 128256 * 100), (4096, 2**28)])
def test_unsloth_keeps_at_most_a_quarter_gib_of_logits(
    llama3: shape.Shape, tokens: int, chunk: int
) -> None:
    assert backends.unsloth_head(llama3, tokens) == 4 * 4096 * tokens + chunk


def test_backend_formulas(llama3: shape.Shape) -> None:
    trl, unsloth = backends.FORMULAS["trl"], backends.FORMULAS["unsloth"]
    assert (trl.name, trl.offloads) == ("trl", False)
    assert (unsloth.name, unsloth.offloads) == ("unsloth", True)
    assert backends.EFFICIENCY["unsloth"] / backends.EFFICIENCY["trl"] == pytest.approx(
        3726 / 2415, rel=0.02
    )
