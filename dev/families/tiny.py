"""Tiny configurations of every model family that transformers loads as a causal language model.

The sizes of a family's default configuration are replaced by name. Its layers are one of each type,
and sliding windows and chunks are shorter than the rows of the probe.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 96
WINDOW = 6
HEADS, KEY_VALUE_HEADS, HEAD, HIDDEN = 4, 2, 16, 64
EXPERTS, USED = 4, 2
GROUPS: tuple[tuple[int, str], ...] = (
    (
        HIDDEN,
        "hidden_size d_model n_embd dim embedding_size emb_dim model_dim word_embed_proj_dim "
        "embedding_dim lru_width attention_hidden_size mamba_d_ssm moe_intermediate_size "
        "shared_expert_intermediate_size expert_ffn_hidden_size shared_intermediate_size "
        "moe_shared_expert_intermediate_size expert_intermediate_size",
    ),
    (
        2 * HIDDEN,
        "intermediate_size ffn_dim d_ff n_inner ffn_hidden_size encoder_ffn_dim decoder_ffn_dim "
        "dim_ff dff ffn_hidden_dim block_ff_dim intermediate_size_mlp feed_forward_hidden_dim "
        "mamba_intermediate",
    ),
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
        "mamba_n_heads mamba_num_heads linear_num_value_heads swa_num_attention_heads "
        "index_n_heads",
    ),
    (
        KEY_VALUE_HEADS,
        "num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads "
        "num_global_key_value_heads",
    ),
    (
        HEAD,
        "head_dim global_head_dim attention_head_dim kv_channels mamba_d_head mamba_head_dim "
        "mamba_headdim linear_key_head_dim linear_value_head_dim linear_head_dim index_head_dim "
        "swa_head_dim d_kv attention_head_size dim_head v_head_dim qk_nope_head_dim mamba_d_state "
        "ssm_state_size state_size rotary_dim hidden_size_per_layer_input swa_v_head_dim",
    ),
    (HEAD // 2, "qk_rope_head_dim"),
    (HEAD + HEAD // 2, "qk_head_dim"),
    (HIDDEN // 2, "kv_lora_rank q_lora_rank o_lora_rank mamba_dt_rank"),
    (EXPERTS, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (USED, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts"),
    (1, "n_shared_experts num_shared_experts n_group topk_group"),
    (
        2,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_decoder_layers num_encoder_layers",
    ),
    # Fewer keys than the rows have: otherwise sparse attention would be dense.
    (2, "index_topk index_topk_blocks index_block_size"),
    (256, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input text_vocab_size"),
    (
        WINDOW,
        "sliding_window attention_chunk_size window_size sliding_window_size keep_window_size "
        "attention_window_size",
    ),
    (0, "pad_token_id bos_token_id eos_token_id"),
)
SIZES = {name: value for value, names in GROUPS for name in names.split()}
"""Values of the fields that a family has. Fields that are None by default stay None, except those
in ``ALWAYS``."""
ALWAYS = frozenset({"head_dim", "pad_token_id", "num_key_value_heads"})
LAYERS = ("layer_types", "layers_block_type", "block_types")


class NotTiny(Exception):
    """No tiny model of a family can be built; the text is the reason."""


def names() -> list[str]:
    """Return the families: values of ``model_type`` that AutoModelForCausalLM loads."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def text_family(family: str) -> str:
    """Return the ``model_type`` of the text model of a family; the family, if it is one."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    if "text_config" not in kind.sub_configs:
        return family
    return str(kind().get_text_config(decoder=True).model_type)


def config(family: str, **changed: Any) -> Any:
    """Return the tiny configuration of a family. Raises NotTiny."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind = CONFIG_MAPPING[family]
        return kind(**(fields(kind) | SPECIAL.get(family, {}) | changed))
    except Exception as error:
        raise NotTiny(str(error)) from error


def fields(kind: Any) -> dict[str, Any]:
    """Return the fields of a configuration class that are smaller than by default."""
    default = kind()
    below = {
        name: fields(type(part))
        | SPECIAL.get(part.model_type, {})
        | {"model_type": part.model_type}
        for name in kind.sub_configs
        if (part := getattr(default, name, None)) is not None
    }
    written = default.to_dict()
    smaller: dict[str, Any] = {
        name: value
        for name, value in SIZES.items()
        if written.get(name) is not None or (name in written and name in ALWAYS)
    }
    if "qk_rope_head_dim" in smaller:
        # Its rotary embedding has the size of this field, and each query head has a key head.
        smaller |= {"head_dim": smaller["qk_rope_head_dim"], "num_key_value_heads": HEADS}
    smaller |= {name: 0.0 for name, value in written.items() if _is_noise(name, value)}
    for name in LAYERS:
        types = written.get(name)
        if isinstance(types, list):
            smaller[name] = list(dict.fromkeys(types))
            if len(smaller[name]) == 1:
                smaller[name] *= 2
            smaller["num_hidden_layers"] = len(smaller[name])
    for name, types in written.items():
        if name.endswith("layer_types") and name not in LAYERS and isinstance(types, list):
            smaller[name] = _last(list(dict.fromkeys(types)), smaller.get("num_hidden_layers", 2))
    return smaller | below


def _last(types: list[Any], count: int) -> list[Any]:
    return (types * count)[:count]


def _is_noise(name: str, value: Any) -> bool:
    """Report whether a field adds random numbers to a training step."""
    return ("drop" in name or "jitter" in name) and isinstance(value, float)


MAMBA2 = {"mamba_expand": 1, "mamba_n_groups": 1}
INDEXER = {
    "indexer_n_heads": HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": KEY_VALUE_HEADS, "rope_theta": 10000.0, "clip_qkv": 8.0}
    },
    "deepseek_v2": {"num_experts_per_tok": USED},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": USED},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"global_head_dim": 2 * HEAD},
    "gemma4_unified_text": {"global_head_dim": 2 * HEAD},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": MAMBA2 | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"expand": 1, "n_groups": 1, "num_heads": HEADS},
    "ministral": {"layer_types": ["full_attention", "sliding_attention"]},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "mlp"],
        "expand": 1,
        "n_groups": 1,
    },
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"attention_hidden_size": 2 * HIDDEN, "attention_head_dim": 2 * HEAD},
    "zaya": {"num_experts_per_tok": 1},
}
"""Fields by family that the rules above do not set."""
