"""A repository writes values of a wrong type, or names of kernels, into the files of a base."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import tiny

from finetune_trainer.data.load_tokenizer import load_tokenizer
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_files, text_model

pytestmark = pytest.mark.finding(17, "values in the files of a base")

KERNEL = "evil/kernel"
WRONG: dict[str, dict[str, Any]] = {
    "model_type": {"model_type": ["llama"]},
    "quantization_config": {"quantization_config": "x"},
    "text_config": {"text_config": [1]},
    "vocab_size": {"vocab_size": "9" * 100},
    "vocab_size ": {"text_config": {"vocab_size": {}}},
    "max_position_embeddings": {"max_position_embeddings": -1},
    "attention_dropout": {"attention_dropout": "x"},
    "eos_token_id": {"eos_token_id": [0, "\x1b[2J"]},
    "hidden_size": {"hidden_size": "x"},
    "num_attention_heads": {"num_attention_heads": [4]},
    "num_hidden_layers": {"num_hidden_layers": {"a": 1}},
    "architectures": {"architectures": 5},
    "rope": {"rope_scaling": 5},
    "modulo by zero": {"num_attention_heads": 0},
    "pickle 'module' object": {"dtype": "os"},
}
"""Part of the message → fields of config.json."""
KERNELS: dict[str, dict[str, Any]] = {
    "private": {"_attn_implementation": KERNEL},
    "public": {"attn_implementation": f"{KERNEL}@main:x"},
    "internal": {"_attn_implementation_internal": KERNEL},
    "paged": {"attn_implementation": f"paged|{KERNEL}"},
    "experts": {"experts_implementation": KERNEL},
    "of a nested configuration": {"text_config": {"_attn_implementation": KERNEL}},
    "for each nested configuration": {"attn_implementation": {"text_config": KERNEL}},
    "in a list": {"per_layer_config": [{"attn_implementation": [KERNEL]}]},
}
MODELS: dict[str, dict[str, Any]] = {
    "negative size": {"hidden_size": -64},
    "activation": {"hidden_act": "\x1b[2J"},
    "rope": {"rope_scaling": {"rope_type": "x", "factor": 1e308}},
}


def base(folder: Path, file: str = "config.json", **changes: Any) -> Path:
    """Write the small files of a Llama model, with changes to one of them."""
    tiny.model(folder)
    path = folder / file
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))
    return folder


def check_model(folder: Path) -> None:
    base_files.check_config(folder, source="acme/evil")
    text_model.build(folder)


@pytest.mark.parametrize("name", WRONG)
def test_value_of_a_wrong_type_is_invalid(tmp_path: Path, name: str) -> None:
    folder = base(tmp_path, **WRONG[name])
    with pytest.raises(InvalidSpec) as raised:
        base_files.check_config(folder, source="acme/evil")
    message = str(raised.value)
    assert "config.json of model acme/evil" in message
    assert name.strip() in message
    assert message.isprintable()
    assert len(message) < 600


def test_value_in_the_generation_configuration_is_checked_as_well(tmp_path: Path) -> None:
    folder = base(tmp_path, "generation_config.json", eos_token_id=["x", 2])
    with pytest.raises(InvalidSpec, match=r"eos_token_id in generation_config\.json of model"):
        base_files.check_config(folder, source="acme/evil")


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_of_a_repository_is_rejected(tmp_path: Path, name: str) -> None:
    """The library would download the code of a kernel, and run it."""
    folder = base(tmp_path, **KERNELS[name])
    message = r"requires code of a repository\. The trainer never runs code of a repository"
    with pytest.raises(InvalidSpec, match=message):
        base_files.check_config(folder, source="acme/evil")


def test_kernel_of_transformers_is_accepted(tmp_path: Path) -> None:
    folder = base(tmp_path, _attn_implementation="sdpa", eos_token_id=[0, 1], text_config=None)
    assert base_files.check_config(folder, source="acme/good")["model_type"] == "llama"


@pytest.mark.parametrize("name", MODELS)
def test_model_that_cannot_be_built_is_invalid(tmp_path: Path, name: str) -> None:
    folder = base(tmp_path, **MODELS[name])
    with pytest.raises(InvalidSpec) as raised:
        check_model(folder)
    assert str(raised.value).isprintable()


TOKENIZERS: dict[str, dict[str, Any]] = {
    "model": {"model": 5},
    "vocabulary": {"model": {"type": "BPE", "vocab": [], "merges": {}}},
    "added tokens": {"added_tokens": [{"id": -1, "content": 5}]},
    "normalizer": {"normalizer": {"type": "Replace"}},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_value_of_a_wrong_type_in_the_tokenizer_is_invalid(tmp_path: Path, name: str) -> None:
    folder = base(tmp_path, "tokenizer.json", **TOKENIZERS[name])
    with pytest.raises(InvalidSpec, match="tokenizer cannot be loaded"):
        load_tokenizer(folder)


@pytest.mark.parametrize("value", [5, [5], {"a": {"b": 1}}])
def test_value_of_a_wrong_type_in_the_tokenizer_configuration_is_invalid(
    tmp_path: Path, value: Any
) -> None:
    folder = base(tmp_path, "tokenizer_config.json", tokenizer_class=value)
    with pytest.raises(InvalidSpec, match="tokenizer cannot be loaded"):
        load_tokenizer(folder)
