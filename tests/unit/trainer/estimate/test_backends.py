"""Parts of the formulas of backends that a larger part hides in the total, by hand."""

import pytest
from tests.unit.trainer import shapes

from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.estimate import backends, shape
from finetune_trainer.estimate.memory import Step

HIDDEN, HEADS, INTERMEDIATE, VOCABULARY = 4096, 32, 14336, 128256


def read(**changes: str) -> shape.Shape:
    found = shape.read(shapes.LLAMA3_8B | changes)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("length", "chunk"), [(1024, 64), (1500, 128), (5, 1), (33, 4), (8192, 512)]
)
def test_liger_divides_the_tokens_and_rounds_up_to_a_power_of_two(length: int, chunk: int) -> None:
    """The logits of one of 32 parts have about the size of the hidden states."""
    step = Step(micro_batch=2, length=length, packed=True, kernel="varlen")
    assert backends._liger_chunk(read(), step, 2) == 2 * VOCABULARY * chunk


@pytest.mark.parametrize(
    ("packed", "kernel", "scores"),
    [(True, "eager", HEADS * 2048), (False, "eager", HEADS * 1024), (True, "varlen", 0)],
)
def test_eager_attention_keeps_scores_of_each_pair_of_tokens_in_a_row(
    packed: bool, kernel: str, scores: int
) -> None:
    step = Step(micro_batch=2, length=1024, packed=packed, kernel=kernel)
    assert backends._scores(read(), step) == scores


@pytest.mark.parametrize(
    ("family", "target", "part", "size"),
    [
        ("llama", "q_proj", "query", HIDDEN),
        ("llama", "k_proj", "query", HIDDEN),
        ("llama", "v_proj", "query", HIDDEN),
        ("phi3", "qkv_proj", "query", HIDDEN),
        ("llama", "gate_proj", "gate", HIDDEN),
        ("llama", "up_proj", "gate", HIDDEN),
        ("phi3", "gate_up_proj", "gate", HIDDEN),
        ("llama", "down_proj", "down", INTERMEDIATE),
    ],
)
def test_an_adapter_keeps_the_input_of_its_projection(
    family: str, target: str, part: str, size: int
) -> None:
    recipe = Training(lora=Lora(target_modules=[target]))
    found = backends._inputs(read(model_type=family), recipe)
    assert found == {"query": 0, "output": 0, "gate": 0, "down": 0} | {part: 2 * size}


def test_the_output_projection_keeps_its_input_only_with_dropout() -> None:
    """The attention kernel keeps its output in any case."""
    plain, dropout = (
        backends._inputs(read(), Training(lora=Lora(target_modules=["o_proj"], dropout=rate)))
        for rate in (0.0, 0.1)
    )
    assert (plain["output"], dropout["output"]) == (0, 3 * HIDDEN)
