"""Tiny random models with the architectures of well-known families.

Each model has the features of its family (grouped heads, biases, fused projections, tied
embeddings, norms on queries and keys, soft-capped logits, layers with a sliding window) with a
width of 64, which is the smallest width that bitsandbytes quantizes in whole blocks.
"""

from pathlib import Path
from typing import Any

from tests.support.trainer import tiny

ENDS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
GEMMA = {"head_dim": 16, "tie_word_embeddings": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma": GEMMA,
    "gemma2": {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3_text": {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "phi": {},
    "phi3": {},
    "smollm3": {},
}
"""Differences from ``tiny.SHAPE`` by model_type. SmolLM and SmolLM2 have the type llama."""


def model(folder: Path, family: str, **changes: Any) -> Path:
    """Write a random model of a family with a tokenizer. ``changes``: of its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **tiny.SHAPE | ENDS | FAMILIES.get(family, {}) | changes)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if config.pad_token_id is not None:
        # Some families start with zeros there, as if no row had ever contained this token.
        made.get_input_embeddings().weight.data[config.pad_token_id].normal_(std=0.02)
    made.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
