"""The sizes of a decoder, from its config.json.

Only families whose layers are known here get a shape: a guess would refuse jobs that fit.
"""

from dataclasses import dataclass
from typing import Any

SEPARATE = {
    "llama": 2,
    "mistral": 2,
    "ministral": 2,
    "qwen2": 2,
    "qwen3": 2,
    "gemma": 2,
    "gemma2": 4,
    "gemma3_text": 4,
    "granite": 2,
    "olmo2": 2,
    "smollm3": 2,
    "stablelm": 2,
}
"""Families with q, k, v, o, gate, up and down projections → normalisations in a layer."""
FUSED = {"phi3": 2}
"""Families that keep q, k, v in one tensor and gate, up in another."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder. ``modules`` are the linear layers of one block: name → (inputs, outputs)."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    norms: int
    context: int | None
    modules: dict[str, tuple[int, int]]

    @property
    def linear_parameters(self) -> int:
        """Weights that QLoRA quantises: all linear layers but the head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def other_parameters(self) -> int:
        """Embeddings, head and normalisations, which stay in 16 bits."""
        tables = 1 if self.tied else 2
        return tables * self.vocabulary * self.hidden + (self.norms * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear_parameters + self.other_parameters

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer."""
        return max(inputs * outputs for inputs, outputs in self.modules.values())

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of a 16-bit key-value cache of this many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2 * tokens

    def targets(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Return the modules of a block that get an adapter."""
        if names == ["all-linear"]:
            return self.modules
        return {name: size for name, size in self.modules.items() if name in names}


def read(config: dict[str, Any]) -> Shape | None:
    """Return the shape of a config.json, or None where its family or a size is not known here."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **text}
    family = config.get("model_type")
    norms = SEPARATE.get(str(family)) or FUSED.get(str(family))
    if norms is None:
        return None
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        intermediate, layers = int(config["intermediate_size"]), int(config["num_hidden_layers"])
        vocabulary = int(config["vocab_size"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or hidden // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    context = config.get("max_position_embeddings")
    query, key = heads * head_dim, kv_heads * head_dim
    if family in FUSED:
        modules = {
            "qkv_proj": (hidden, query + 2 * key),
            "o_proj": (query, hidden),
            "gate_up_proj": (hidden, 2 * intermediate),
            "down_proj": (intermediate, hidden),
        }
    else:
        modules = {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, intermediate),
            "up_proj": (hidden, intermediate),
            "down_proj": (intermediate, hidden),
        }
    return Shape(
        family=str(family),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", family in ("gemma", "gemma2", "gemma3_text"))),
        norms=norms,
        context=context if isinstance(context, int) else None,
        modules=modules,
    )
