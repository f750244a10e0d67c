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


FULL, WINDOW = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("family", "fields", "windowed"),
    [
        ("gemma3_text", {}, 25),
        ("gemma3_text", {"sliding_window_pattern": 3}, 20),
        ("gemma3_text", {"_sliding_window_pattern": 2}, 15),
        ("gemma3_text", {"layer_types": [WINDOW] * 10 + [FULL] * 20}, 10),
        ("gemma3_text", {"sliding_window": None}, 0),
        ("gemma2", {}, 15),
        ("mistral", {}, 30),
        ("mistral", {"sliding_window": None}, 0),
        ("ministral", {"layer_types": [WINDOW] * 30}, 30),
        ("qwen2", {}, 0),
        ("qwen2", {"use_sliding_window": False}, 0),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 21}, 30),
        ("qwen3", {"layer_types": [FULL] * 30}, 0),
        ("smollm3", {"layer_types": [FULL] * 30}, 0),
    ],
)
def test_layers_with_a_window(family: str, fields: dict[str, Any], windowed: int) -> None:
    """Each layer that may have one counts, so that no model is refused for a cache it lacks."""
    config = shapes.SMOLLM2_135M | {"model_type": family, "sliding_window": 512} | fields
    found = shape.read(config)
    assert found is not None
    assert (found.windowed, found.window) == (windowed, 512 if windowed else 0)


def test_text_part_of_a_multimodal_config_is_read() -> None:
    text = {key: value for key, value in shapes.SMOLLM2_135M.items() if not key.startswith("tie")}
    found = shape.read(text_config({"model_type": "gemma3", "text_config": text}))
    assert found is not None
    assert found.tied
    untied = shape.read(text_config({"tie_word_embeddings": False, "text_config": text}))
    assert untied is not None
    assert not untied.tied
