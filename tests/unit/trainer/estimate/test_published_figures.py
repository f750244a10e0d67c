"""The estimate compared with published figures, which are in GB, not GiB."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.v1alpha1.training.advanced import AdvancedTraining
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices import cards
from finetune_trainer.estimate import budget, memory
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.budget import Data, EstimateOptions
from finetune_trainer.estimate.memory import BackendFormula, Layer, Step
from finetune_trainer.estimate.shape import Shape, read

GB = 1e9
TOLERANCE = 0.10
# https://unsloth.ai/docs/basics/unsloth-benchmarks: longest context of Llama 3.1 8B, QLoRA of rank
# 32 on all linear layers, one row a batch.
UNSLOTH = {8: 2972, 12: 21848, 16: 40724, 24: 78475, 40: 153977, 48: 191728, 80: 342733}
# The same table's row for transformers with FlashAttention 2. That was before TRL left out PEFT's
# prepare_model_for_kbit_training, which holds embeddings and head in float32.
TRANSFORMERS = {12: 932, 16: 2551, 24: 5789, 40: 12264, 48: 15502, 80: 28454}


def casting_layer(shape: Shape, recipe: Training, step: Step) -> Layer:
    """Return the memory of a layer with the PEFT of that time.

    It cast the input of each adapted projection to float32 and back, and so kept a copy of each.
    """
    targets = shape.targets(recipe.lora.target_modules)
    norms = shape.norms * (4 * shape.hidden + 4)
    attention = 2 * (2 * shape.query + 2 * shape.key) + 4 * shape.heads + 4 * shape.head_dim
    copies = 2 * sum(size for size, _ in targets.values()) + 2 * recipe.lora.r * len(targets)
    kept = norms + attention + 6 * shape.intermediate + copies
    return Layer(kept=kept * step.tokens, backward=2 * shape.largest_linear)


def full_head(shape: Shape, recipe: Training, step: Step) -> int:
    """Return the bytes of a loss over all logits at once, as in most libraries before 2026.

    These are logits in 16 bits and float32, log-softmax, and both gradients.
    """
    return 16 * shape.vocabulary * step.tokens


WITH_KBIT = BackendFormula(
    name="transformers with kbit preparation",
    layer=casting_layer,
    head=full_head,
    offloads=False,
    masks=False,
    embedding_bytes=4,
)
# LLaMA-Factory's wiki, "Performance comparison": Llama 2 7B, QLoRA of rank 8, FlashAttention 2, one
# row a batch on an A100, before losses were chunked; GB rounded to whole ones.
PLAIN = replace(WITH_KBIT, name="transformers", embedding_bytes=None)
LLAMA_FACTORY = {1024: 6, 2048: 7, 4096: 9, 8192: 12, 16384: 19, 32768: 32}


def recipe(r: int) -> Training:
    return Training(lora=Lora(r=r), advanced=AdvancedTraining(micro_batch_size=1))


def shape(config: dict[str, object]) -> Shape:
    found = read(config)
    assert found is not None
    return found


def estimated(config: dict[str, object], formula: BackendFormula, *, r: int, tokens: int) -> float:
    step = Step(micro_batch=1, length=tokens, packed=False, kernel="flash_attention_2")
    found = memory.training(shape(config), recipe(r), formula, step)
    return found.total / GB


ROWS = [
    *(("unsloth", gb, tokens) for gb, tokens in UNSLOTH.items()),
    *(("transformers", gb, tokens) for gb, tokens in TRANSFORMERS.items()),
    *(("llama-factory", gb, tokens) for tokens, gb in LLAMA_FACTORY.items()),
]


@pytest.mark.parametrize(("table", "published", "tokens"), ROWS)
def test_estimate_matches_each_published_figure(table: str, published: int, tokens: int) -> None:
    found = {
        "unsloth": lambda: estimated(shapes.LLAMA31_8B, FORMULAS["unsloth"], r=32, tokens=tokens),
        "transformers": lambda: estimated(shapes.LLAMA31_8B, WITH_KBIT, r=32, tokens=tokens),
        "llama-factory": lambda: estimated(shapes.LLAMA2_7B, PLAIN, r=8, tokens=tokens),
    }[table]()
    assert found == pytest.approx(published, rel=TOLERANCE)


@pytest.mark.parametrize(("backend", "published"), [("trl", 2415), ("unsloth", 3726)])
def test_training_time_matches_the_published_speed(backend: Any, published: int) -> None:
    """LLaMA-Factory's wiki, tokens a second of 4 rows of 1,024 on an A100."""
    own = AdvancedTraining(micro_batch_size=4, backend=backend, gradient_checkpointing=True)
    found = budget.estimate(
        shape(shapes.LLAMA2_7B),
        Training(sequence_length=1024, effective_batch_size=4, lora=Lora(r=8), advanced=own),
        data=Data(sequences=400, tokens=400 * 1024, steps=100),
        options=EstimateOptions(card=cards.CARDS["NVIDIA-A100-SXM4-40GB"]),
    )
    assert found.tokens == 400 * 1024
    assert found.seconds is not None
    assert found.tokens / found.seconds == pytest.approx(published, rel=TOLERANCE)


def test_number_of_parameters() -> None:
    # The models' own cards: 8,030,261,248 and 6,738,415,616 and 134,515,008.
    assert shape(shapes.LLAMA3_8B).parameters == 8_030_261_248
    assert shape(shapes.LLAMA2_7B).parameters == 6_738_415_616
    assert shape(shapes.SMOLLM2_135M).parameters == 134_515_008


def test_adapter_size_of_an_8b_model() -> None:
    assert memory.adapter_parameters(shape(shapes.LLAMA3_8B), recipe(16)) == 41_943_040
