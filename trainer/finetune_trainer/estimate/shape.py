"""The sizes of a decoder, read from its config.json.

Only families with known layers have a shape: a guess could refuse jobs that fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.attention import families
from finetune_trainer.attention.kernels import ALL, Support

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
"""Families with q, k, v, o, gate, up and down projections → number of norms per layer."""
FUSED = {"phi3": 2}
"""Families with one tensor for q, k, v and one for gate, up → number of norms per layer."""
NORMALIZED_OUTPUTS = frozenset({"gemma2", "gemma3_text", "olmo2"})
"""Families that normalize the outputs of attention and MLP."""
SCALED = frozenset({"granite"})
"""Families that multiply the outputs of attention and MLP by a constant."""
WINDOWED = {"gemma2": 2, "gemma3_text": 6}
"""Families with layers with and without a window, which have different attention masks → the layer
of so many that has none, unless config.json says otherwise."""
FULL_BY_DEFAULT = frozenset({"qwen2", "qwen3", "smollm3"})
"""Families that use their window only if ``use_sliding_window`` is set."""
NORMALIZED_HEADS = frozenset({"qwen3", "gemma3_text", "olmo2"})
"""Families that also normalize queries and keys."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder. ``modules`` are the linear layers of one block: name → (in, out)."""

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
    attention: Support = ALL
    """The kernels that compute the attention."""
    capped_logits: bool = False
    """Whether the logits have soft-capping."""
    masks: int = 1
    """Attention masks of a batch: one more if some layers have a window."""
    windowed: int = 0
    """Number of layers that attend to the last ``window`` tokens only."""
    window: int = 0

    @property
    def query(self) -> int:
        """Size of the queries of one token."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Size of the keys of one token, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Number of weights that QLoRA quantizes: all linear layers except the head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def other_parameters(self) -> int:
        """Number of weights of embeddings, head and norms, which stay in 16 bits."""
        tables = 1 if self.tied else 2
        return tables * self.vocabulary * self.hidden + (self.norms * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        """Number of all weights."""
        return self.linear_parameters + self.other_parameters

    @property
    def largest_linear(self) -> int:
        """Number of weights of the largest linear layer."""
        return max(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token in one layer of a 16-bit KV cache."""
        return 2 * self.kv_heads * self.head_dim * 2

    def targets(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Return the modules of one block that get an adapter."""
        if names == ["all-linear"]:
            return self.modules
        return {name: size for name, size in self.modules.items() if name in names}


def read(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape of a config.json; None if its family is unknown or a size is missing."""
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
    windowed, window = _windows(config, str(family), layers)
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
        attention=families.support(config),
        capped_logits=bool(config.get("final_logit_softcapping", family == "gemma2")),
        masks=2 if family in WINDOWED else 1,
        windowed=windowed,
        window=window,
    )


def _windows(config: Mapping[str, Any], family: str, layers: int) -> tuple[int, int]:
    """Return the number of layers with a window, and its size in tokens.

    Where config.json does not say which layers have one, all that may have it count.
    """
    window, types = config.get("sliding_window"), config.get("layer_types")
    if not isinstance(window, int) or window <= 0:
        return 0, 0
    if isinstance(types, list):
        windowed = types.count("sliding_attention")
    elif family in WINDOWED:
        stated = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
        pattern = stated if isinstance(stated, int) and stated > 0 else WINDOWED[family]
        windowed = layers - layers // pattern
    elif config.get("use_sliding_window", family not in FULL_BY_DEFAULT):
        windowed = layers
    else:
        windowed = 0
    return windowed, window if windowed else 0
