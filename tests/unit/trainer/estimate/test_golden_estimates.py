"""All figures and suggestions of the estimate, for a table of models and recipes.

Other tests check each formula. This table shows the effect of a change on every figure:
``UPDATE_GOLDEN=1 pytest tests/unit/trainer/estimate`` writes testdata/estimates.json for a review.
"""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.advanced import AdvancedTraining, Quantization
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices import cards
from finetune_trainer.estimate import budget, report, shape, suggestions, verdict
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions
from finetune_trainer.estimate.verdict import gib

GOLDEN = Path(__file__).parent / "testdata" / "estimates.json"
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"
ROWS = Data(longest=1500, sequences=900, tokens=700_000, held_out_tokens=40_000, steps=300)
SERVING = ServingSettings(max_model_len=8192, gpu_memory_utilization=0.88)
WIDE_HEADS = shapes.LLAMA3_8B | {
    "model_type": "gemma2",
    "head_dim": 256,
    "attn_logit_softcapping": None,
}
"""Attention that is wider than the hidden size, and four norms per layer."""
FUSED = shapes.LLAMA3_8B | {"model_type": "phi3"}


def advanced(**fields: Any) -> Training:
    return Training(advanced=AdvancedTraining(**fields))


MODELS = {
    "Llama 3 8B": shapes.LLAMA3_8B,
    "SmolLM2 135M": shapes.SMOLLM2_135M,
    "Gemma 2, wide heads": WIDE_HEADS,
    "Phi 3, fused layers": FUSED,
}
RECIPES = {
    "trl": advanced(backend="trl"),
    "unsloth": advanced(backend="unsloth"),
    "trl, without checkpointing": advanced(backend="trl", gradient_checkpointing=False),
    "trl, eager attention": advanced(backend="trl", attn_implementation="eager"),
    "trl, padded": advanced(backend="trl", pad_to_sequence_length=True, micro_batch_size=8),
    "trl, float32": advanced(
        backend="trl", quantization=Quantization(compute_dtype="float32", double_quant=False)
    ),
    "trl, DoRA with dropout on two projections": Training(
        lora=Lora(use_dora=True, dropout=0.1, target_modules=["q_proj", "v_proj"]),
        advanced=AdvancedTraining(backend="trl", optimizer="lion_8bit"),
    ),
    "unsloth, dropout and trained tables": Training(
        sequence_length=8192,
        lora=Lora(dropout=0.05, modules_to_save=["embed_tokens", "lm_head"]),
        advanced=AdvancedTraining(backend="unsloth", early_stopping_patience=3),
    ),
}


def estimated(model: dict[str, Any], recipe: Training) -> tuple[shape.Shape, Estimate]:
    found = shape.read(model)
    assert found is not None
    options = EstimateOptions(card=cards.CARDS["NVIDIA-A10G"], serving=SERVING)
    return found, budget.estimate(found, recipe, data=ROWS, options=options)


def figures(model: dict[str, Any], recipe: Training) -> dict[str, Any]:
    found, estimate = estimated(model, recipe)
    card = estimate.card
    assert card is not None
    facts = report.facts(estimate)
    return {
        "shape": {"parameters": found.parameters, "largestLinear": found.largest_linear},
        "training": asdict(estimate.training),
        "accumulation": estimate.accumulation,
        "facts": facts,
        "status": report.status(facts),
        "table": report.table(estimate, title="Estimate").splitlines(),
        "fits": [estimate.training_fits, estimate.serving_fits],
        "forTraining": suggestions.for_training(
            found, recipe, ROWS, card, backends=("unsloth", "trl"), count=99
        ),
        "forServing": suggestions.for_serving(found, SERVING, estimate, 99),
    }


CASES = {
    f"{model}: {recipe}": (MODELS[model], RECIPES[recipe]) for model in MODELS for recipe in RECIPES
}


@pytest.mark.parametrize("name", CASES)
def test_figures_are_those_of_the_golden_file(name: str) -> None:
    found = json.loads(json.dumps(figures(*CASES[name])))
    if UPDATE:
        known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        kept = {key: value for key, value in {**known, name: found}.items() if key in CASES}
        GOLDEN.write_text(json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    golden = json.loads(GOLDEN.read_text())[name]
    assert found == golden, (
        "review the change, then UPDATE_GOLDEN=1 pytest tests/unit/trainer/estimate"
    )


def test_sentence_names_no_seconds_if_the_training_is_short() -> None:
    _, estimate = estimated(*next(iter(CASES.values())))
    texts = [report.sentence(replace(estimate, seconds=seconds)) for seconds in (0.4, 250.0)]
    assert "with micro-batch size" in texts[0]
    assert " and takes less than a minute;" in texts[0]
    assert " and takes approximately 4m10s;" in texts[1]


def test_an_estimate_without_a_card_names_none_and_rejects_nothing() -> None:
    model, recipe = next(iter(CASES.values()))
    found, estimate = estimated(model, recipe)
    assert estimate.card is not None
    of_card = f" of the {gib(estimate.card.memory)} of {estimate.card.name}"
    without = replace(estimate, card=None)
    assert report.sentence(without) == report.sentence(estimate).replace(of_card, "")
    assert of_card in report.sentence(estimate)
    assert verdict.refusal(without, found, recipe, ROWS, SERVING, ("trl",)) is None
