"""Tiny models in the layout of those that the hub publishes, and rows to train them on.

transformers writes the names of tensors that the repositories have, also for families whose tensors
it renames as it loads them, and for models for text and images.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families import tiny

END = "<end>"
CHARACTERS = "".join(map(chr, range(33, 127)))
ROWS, LENGTH = 24, 12
"""Number of rows, and of tokens in each."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model: its ``model_type``, and fields of config.json other than its defaults.

    text: fields of the text model of a model for text and images.
    """

    family: str
    fields: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
}
PARALLEL = {"use_parallel_residual": True, "qk_layernorm": True}
MODELS: dict[str, PublishedModel] = {
    "Command R": PublishedModel(family="cohere"),
    "Command R+": PublishedModel(family="cohere", fields={"use_qk_norm": True}),
    "Command R7B, Command A": PublishedModel(family="cohere2"),
    "Falcon 7B": PublishedModel(
        family="falcon", fields={"new_decoder_architecture": False, "multi_query": True}
    ),
    "Falcon 40B, 180B": PublishedModel(family="falcon", fields={"new_decoder_architecture": True}),
    "Falcon H1": PublishedModel(family="falcon_h1"),
    "Falcon Mamba": PublishedModel(family="falcon_mamba"),
    "Gemma": PublishedModel(family="gemma"),
    "Gemma 2": PublishedModel(family="gemma2"),
    "Gemma 3 270M, 1B": PublishedModel(family="gemma3_text"),
    "Gemma 3 4B, 12B, 27B": PublishedModel(family="gemma3"),
    "Gemma 4 26B, 31B": PublishedModel(
        family="gemma4", text=GEMMA4 | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
    ),
    "Gemma 4 E2B, E4B": PublishedModel(
        family="gemma4",
        text=GEMMA4 | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": tiny.HIDDEN},
    ),
    "GPT-OSS in 16 bits": PublishedModel(family="gpt_oss"),
    "Granite 3": PublishedModel(family="granite"),
    "Granite 3 MoE": PublishedModel(family="granitemoe"),
    "Granite 4": PublishedModel(family="granitemoehybrid"),
    "Llama 3, SmolLM 2, Falcon 3": PublishedModel(family="llama", fields=LLAMA3),
    "Llama 3.2 1B, 3B": PublishedModel(
        family="llama", fields=LLAMA3 | {"tie_word_embeddings": True}
    ),
    "Llama 4": PublishedModel(family="llama4"),
    "Ministral 3": PublishedModel(family="mistral3", text={"model_type": "ministral3"}),
    "Mistral 7B, Nemo, Devstral": PublishedModel(family="mistral"),
    "Mistral Small 3.1, 3.2": PublishedModel(family="mistral3", text={"model_type": "mistral"}),
    "Mixtral": PublishedModel(family="mixtral"),
    "OLMo": PublishedModel(family="olmo"),
    "OLMo 2": PublishedModel(family="olmo2"),
    "OLMo 3": PublishedModel(family="olmo3"),
    "OLMoE": PublishedModel(family="olmoe"),
    "Phi 1.5, 2": PublishedModel(family="phi"),
    "Phi 3, 4": PublishedModel(family="phi3"),
    "Phi 3.5 MoE": PublishedModel(family="phimoe"),
    "Phi 4 mini": PublishedModel(family="phi3", fields={"tie_word_embeddings": True}),
    "Qwen 1.5 MoE": PublishedModel(family="qwen2_moe"),
    "Qwen 2, 2.5": PublishedModel(family="qwen2"),
    "Qwen 2.5 0.5B, 1.5B, 3B": PublishedModel(family="qwen2", fields={"tie_word_embeddings": True}),
    "Qwen 3": PublishedModel(family="qwen3"),
    "Qwen 3 MoE": PublishedModel(family="qwen3_moe"),
    "Qwen 3 Next": PublishedModel(family="qwen3_next"),
    "Qwen 3.5": PublishedModel(family="qwen3_5"),
    "Qwen 3.5 MoE": PublishedModel(family="qwen3_5_moe"),
    "SmolLM 3": PublishedModel(family="smollm3"),
    "StableLM 3B": PublishedModel(family="stablelm"),
    "StableLM 2 12B": PublishedModel(family="stablelm", fields=PARALLEL),
}
"""The models with most downloads, by the names that their rows in the table have."""


def config(model: PublishedModel) -> Any:
    """Return the tiny config.json of a model, as an object of transformers."""
    if not model.text:
        return tiny.config(model.family, **model.fields)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    whole = CONFIG_MAPPING[model.family]
    sizes = tiny.fields(whole) | tiny.SPECIAL.get(model.family, {})
    kind = CONFIG_MAPPING[model.text.get("model_type", sizes["text_config"]["model_type"])]
    text = tiny.fields(kind) | tiny.SPECIAL.get(kind.model_type, {}) | model.text
    sizes["text_config"] = {**text, "model_type": kind.model_type}
    return whole(**{**sizes, **model.fields})


def write(model: PublishedModel, folder: Path) -> None:
    """Write a random model like a repository of the hub, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    from families import probe

    configuration = config(model)
    whole = "text_config" in type(configuration).sub_configs
    build = AutoModelForMultimodalLM if whole else AutoModelForCausalLM
    made = build.from_config(configuration, dtype=torch.float32)
    probe.randomize(made)
    made.to(torch.bfloat16).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def rows() -> list[dict[str, str]]:
    """Return rows of random characters, one token each."""
    draw = random.Random(5)
    return [{"text": "".join(draw.choices(CHARACTERS, k=LENGTH))} for _ in range(ROWS)]


def _tokenizer() -> Any:
    """Return a tokenizer of bytes: some families load only byte-level ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = {END: 0, **{character: at for at, character in enumerate(CHARACTERS, start=1)}}
    backend = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = dict.fromkeys(("eos_token", "pad_token"), END)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)
