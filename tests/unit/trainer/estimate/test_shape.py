"""The families whose sizes the estimate reads from config.json."""

from typing import Any

import pytest
from tests.unit.trainer import shapes

from finetune_trainer.estimate import shape
from finetune_trainer.models.base_config import text_config

NORMS = {
    "gemma": 2,
    "gemma2": 4,
    "gemma3_text": 4,
    "granite": 2,
    "llama": 2,
    "ministral": 2,
    "mistral": 2,
    "olmo2": 2,
    "phi3": 2,
    "qwen2": 2,
    "qwen3": 2,
    "smollm3": 2,
    "stablelm": 2,
}
"""Norms in each layer, by ``model_type`` of transformers."""


@pytest.mark.parametrize("family", NORMS)
def test_family_has_a_shape_with_its_norms(family: str) -> None:
    found = shape.read(shapes.SMOLLM2_135M | {"model_type": family})
    assert found is not None
    assert (found.family, found.norms) == (family, NORMS[family])
    assert ("gate_up_proj" in found.modules) is (family == "phi3")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mixtral"},
        {"model_type": None},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"vocab_size": None},
    ],
    ids=str,
)
def test_unknown_family_or_size_has_no_shape(changes: dict[str, Any]) -> None:
    assert shape.read(shapes.SMOLLM2_135M | changes) is None


@pytest.mark.parametrize(
    "name", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"]
)
def test_missing_size_has_no_shape(name: str) -> None:
    config = {key: value for key, value in shapes.SMOLLM2_135M.items() if key != name}
    assert shape.read(config) is None


def test_text_part_of_a_multimodal_config_is_read() -> None:
    text = {key: value for key, value in shapes.SMOLLM2_135M.items() if not key.startswith("tie")}
    found = shape.read(text_config({"model_type": "gemma3", "text_config": text}))
    assert found is not None
    assert found.tied
    untied = shape.read(text_config({"tie_word_embeddings": False, "text_config": text}))
    assert untied is not None
    assert not untied.tied
