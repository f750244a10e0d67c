"""The memory formula, part by part, against figures that are computed here."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from tests.unit.trainer import shapes

from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Optimizer, Quantization
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.estimate import backends, memory, shape
from finetune_trainer.estimate.memory import GIB, Memory, Step

TABLE = 128256 * 4096
"""Weights of the embedding of Llama 3 8B, and of its head."""
LINEAR = 6_979_321_856
"""Weights of all linear layers of Llama 3 8B but the head."""
TWO_ROWS = Step(micro_batch=2, length=1024, packed=True, kernel="varlen")
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
    return memory.training(llama3, recipe, backends.FORMULAS[backend], TWO_ROWS)


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
    layer = backends.trl_layer(llama3, recipe, TWO_ROWS)
    assert found.activations == inputs + layer.kept + layer.backward
    others = found.total - found.overhead
    assert found.overhead == pytest.approx(int(0.6 * GIB) + 0.05 * others)


def test_activations_are_inputs_of_layers_or_whole_layers(llama3: shape.Shape) -> None:
    plain = Training(advanced=AdvancedTraining(gradient_checkpointing=False))
    layer = backends.trl_layer(llama3, plain, TWO_ROWS)
    stored = step(llama3, gradient_checkpointing=False)
    assert stored.activations == 32 * layer.kept + layer.backward
    assert step(llama3).activations == 32 * 4096 * 2 * 2048 + layer.kept + layer.backward
    fused = backends.unsloth_layer(llama3, plain, TWO_ROWS)
    unsloth = step(llama3, backend="unsloth")
    assert unsloth.activations == fused.kept + fused.backward, "inputs are in host memory"


@pytest.mark.parametrize(
    ("packed", "micro", "kernel", "elements"),
    [
        (True, 1, "sdpa", 1024**2),
        (True, 2, "sdpa", 2048**2),
        (False, 2, "sdpa", 2 * 1024**2),
        (False, 1, "sdpa", 0),
        (True, 2, "varlen", 0),
        (True, 2, "flash_attention_2", 0),
    ],
)
def test_elements_of_the_attention_mask(
    packed: bool, micro: int, kernel: str, elements: int
) -> None:
    found = Step(micro_batch=micro, length=1024, packed=packed, kernel=kernel)
    assert found.mask_elements == elements


def test_masks_have_one_byte_and_each_layer_a_copy(llama3: shape.Shape) -> None:
    masked = replace(TWO_ROWS, kernel="sdpa")
    for stored, copies in ((True, 1), (False, 32)):
        recipe = Training(advanced=AdvancedTraining(gradient_checkpointing=stored))
        formula = backends.FORMULAS["trl"]
        found = memory.training(llama3, recipe, formula, masked)
        layer = backends.trl_layer(llama3, recipe, masked)
        inputs = 32 * 4096 * 2 * 2048 + layer.kept if stored else 32 * layer.kept
        assert found.masks == 2048**2
        assert found.activations == inputs + layer.backward + copies * 2 * 2048**2
        without = replace(formula, masks=False)
        assert memory.training(llama3, recipe, without, masked).masks == 0


def test_workspace_of_flash_attention(llama3: shape.Shape) -> None:
    one = replace(TWO_ROWS, micro_batch=1)
    shared, own = 8 * 4096 + 4 * 32, 4 * 4096 + 4 * 32
    assert backends.workspace(llama3, Training(), one) == 1024 * shared
    assert backends.workspace(replace(llama3, kv_heads=32), Training(), one) == 1024 * own
    more = backends.workspace(llama3, Training(deterministic=True), one)
    assert more == 1024 * (shared + 4 * 4 * 4096), "5 gradients of the queries, for 144 / 32"


def test_adapter_has_weights_in_float32(llama3: shape.Shape) -> None:
    small, large = (step(llama3, lora=Lora(r=r)).adapter for r in (8, 16))
    # Rank × (inputs + outputs) of the seven projections of 32 layers, 4 bytes each.
    sizes = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336)]
    sizes += [(4096, 14336), (14336, 4096)]
    assert small == 4 * 8 * 32 * sum(inputs + outputs for inputs, outputs in sizes)
    assert large == 2 * small


def test_gradients_appear_while_kept_activations_are_freed(llama3: shape.Shape) -> None:
    inputs = 31 * 4096 * 2 * 2048
    weights = 256 * step(llama3, lora=Lora(r=1)).adapter
    found = step(llama3, lora=Lora(r=256)).adapter
    assert found == weights + max(weights - inputs, 0)
    assert found > weights


@pytest.mark.parametrize(("tokens", "in_chunk"), [(100, 100), (256, 256), (4096, 256)])
def test_trl_keeps_the_logits_of_256_tokens(
    llama3: shape.Shape, tokens: int, in_chunk: int
) -> None:
    logits = 16 * 128256 * in_chunk
    one = Step(micro_batch=1, length=tokens, packed=True, kernel="varlen")
    found = backends.trl_head(llama3, Training(), one)
    assert found == max(logits + 8 * 4096 * tokens, 22 * 4096 * tokens)
    capped = backends.trl_head(replace(llama3, capped_logits=True), Training(), one)
    assert capped == max(logits * 5 // 4 + 8 * 4096 * tokens, 22 * 4096 * tokens)


@pytest.mark.parametrize(("tokens", "chunk"), [(100, 16 * 128256 * 100), (4096, 2**28)])
def test_unsloth_keeps_at_most_a_quarter_gib_of_logits(
    llama3: shape.Shape, tokens: int, chunk: int
) -> None:
    one = Step(micro_batch=1, length=tokens, packed=True, kernel="varlen")
    assert backends.unsloth_head(llama3, Training(), one) == 4 * 4096 * tokens + chunk


def test_backend_formulas(llama3: shape.Shape) -> None:
    trl, unsloth = backends.FORMULAS["trl"], backends.FORMULAS["unsloth"]
    assert (trl.name, trl.offloads) == ("trl", False)
    assert (unsloth.name, unsloth.offloads) == ("unsloth", True)
    assert backends.EFFICIENCY["unsloth"] / backends.EFFICIENCY["trl"] == pytest.approx(
        3726 / 2415, rel=0.02
    )
