"""Tiny random models for text and images, in the layout of the published ones.

The names of their tensors and the structure of config.json are those of the repositories on the
hub, which transformers writes as well. The vision parts are never used.
"""

from pathlib import Path
from typing import Any

from tests.support.trainer import tiny

TEXT = {**tiny.SHAPE, "head_dim": 32, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 2}
IMAGES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {
            "model_type": "gemma3_text",
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
        },
        "vision_config": {**IMAGES, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "text_config": {
            "model_type": "gemma4_text",
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 64,
            "global_head_dim": 64,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": tiny.SHAPE["vocab_size"],
        },
        "vision_config": {**IMAGES, "num_key_value_heads": 2, "head_dim": 32},
        "audio_config": None,
    },
    "qwen3_5": {
        "text_config": {
            "model_type": "qwen3_5_text",
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        },
        "vision_config": {
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
        },
    },
    "llama4": {
        "text_config": {
            "model_type": "llama4_text",
            "intermediate_size_mlp": 128,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
        },
        "vision_config": {
            **IMAGES,
            "intermediate_size": 256,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
    },
    "mistral3": {
        "text_config": {"model_type": "mistral"},
        "vision_config": {**IMAGES, "model_type": "pixtral", "head_dim": 32},
        "tie_word_embeddings": False,
    },
}
"""config.json of each family, without the sizes that all of them share."""


def model(folder: Path, family: str, *, shard: str = "10GB", **changes: Any) -> Path:
    """Write a random model of a family with a tokenizer. ``changes``: of its text config."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(1)
    settings = FAMILIES[family]
    text = {**TEXT, **settings["text_config"], **changes}
    config = AutoConfig.for_model(family, **{**settings, "text_config": text, "eos_token_id": 0})
    made = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    for name, buffer in made.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.fill_(0.75)
    made.save_pretrained(folder, max_shard_size=shard)
    tiny.tokenizer().save_pretrained(folder)
    return folder
