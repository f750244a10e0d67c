"""Measures a family: its tiny model, and the same model with other features of its configuration.

A kernel is listed only if it computes all these models correctly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from families import tiny
from finetune_trainer.attention.families import LAYERS, Family
from finetune_trainer.attention.kernels import EAGER, SDPA, VARLEN
from finetune_trainer.models import architecture

ORDER = (VARLEN, SDPA, EAGER)
REASONS = (
    (r"s_aux", "it has attention sinks, which FlashAttention-2 lacks"),
    (r"chunked_overlay", "it has layers with chunked attention, which FlashAttention-2 lacks"),
    (r"position_bias", "it adds a bias to the scores, which FlashAttention-2 lacks"),
    (r"keys and values of", "its keys and values differ in size, which FlashAttention-2 lacks"),
    (r"varlen attention has no", "it needs a mask that FlashAttention-2 lacks"),
    (r"", "its own attention code does not use FlashAttention-2"),
)
"""Patterns of errors of FlashAttention-2, and the reason that the table states."""
NOT_PACKED = "packed rows would see each other"
RECURRENT = "packed rows would see each other: it has layers that are not attention"
PARTLY = "packed rows would see each other with some kernels"


def measure(family: str, **changed: Any) -> Any:
    """Return what one tiny model of a family computes. Raises NotTiny or Insensitive."""
    from transformers import AutoModelForCausalLM

    from families import probe

    def build(kernel: str) -> Any:
        config = tiny.config(family, **changed)
        return AutoModelForCausalLM.from_config(config, attn_implementation=kernel).float()

    return probe.measure(build, vocabulary=tiny.VOCABULARY)


def row(family: str) -> Family:
    """Return the row of a family in the table."""
    try:
        measured = _row(family)
        return replace(measured, rejected=measured.rejected or refusal(family))
    except Exception as error:
        text = " ".join(str(error).split()).partition(". ")[0].replace("`", "'")
        return Family(unmeasured=f"no tiny model of it can run ({text[:100]})")


def refusal(family: str) -> str:
    """Return why the trainer cannot train a family, whatever its attention computes."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = tiny.text_family(family)
    if text not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "transformers has no causal language model of its text model"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny.config(text))
    return "" if architecture.has_decoder(model) else "transformers does not name its decoder"


def _row(family: str) -> Family:
    default = tiny.config(family)
    always: dict[str, Any] = {}
    first = measure(family)
    decoder = not first.causal and hasattr(default, "is_decoder")
    if decoder:
        always = {"is_decoder": True}
        first = measure(family, **always)
    if not first.causal:
        return Family(rejected="its tokens see later tokens")
    models, layers = [first], _layers(default)
    for changed in _variants(default):
        variant = measure(family, **always, **changed)
        types = set(changed.get("layer_types", ()))
        if types and not _equal(variant, first):
            # The table then covers only models without these layers.
            continue
        models.append(variant)
        layers |= types
    capped = bool(getattr(default, "attn_logit_softcapping", None))
    if capped:
        # FlashAttention refuses soft-capping, which is a matter of each config.json.
        uncapped = measure(family, attn_logit_softcapping=None)
        first.padded[VARLEN], first.packed[VARLEN] = (
            uncapped.padded[VARLEN],
            uncapped.packed[VARLEN],
        )
    padded = tuple(kernel for kernel in ORDER if not any(model.padded[kernel] for model in models))
    packed = tuple(kernel for kernel in padded if not any(model.packed[kernel] for model in models))
    return Family(
        padded=padded,
        packed=packed,
        layers=tuple(sorted(layers)),
        why=_why(family, models, padded, packed),
        rejected="" if padded else "no attention kernel computes padded rows correctly",
        decoder=decoder,
        capped=capped,
    )


def _variants(default: Any) -> Iterator[dict[str, Any]]:
    """Yield other features that a config.json of the family can set."""
    if hasattr(default, "alibi"):
        yield {"alibi": not default.alibi}
    if windows := _windows(default):
        yield windows


def _windows(default: Any) -> dict[str, Any]:
    """Return the fields that add layers with a sliding window to a model without them."""
    types = getattr(default, "layer_types", None) or []
    if not hasattr(default, "sliding_window") or "sliding_attention" in types:
        return {}
    fields: dict[str, Any] = {"sliding_window": tiny.WINDOW}
    if set(types) == {"full_attention"}:
        fields["layer_types"] = ["full_attention", "sliding_attention"]
    if hasattr(default, "use_sliding_window"):
        fields["use_sliding_window"] = True
    changed = all(getattr(default, name, None) == value for name, value in fields.items())
    return {} if changed else fields


def _layers(default: Any) -> set[str]:
    layers = {layer for name in LAYERS for layer in getattr(default, name, None) or ()}
    text = getattr(default, "text_config", None)
    return layers if text is None else layers | _layers(text)


def _equal(one: Any, other: Any) -> bool:
    """Report whether two models work with the same kernels."""
    return all(
        bool(one.padded[kernel]) == bool(other.padded[kernel])
        and bool(one.packed[kernel]) == bool(other.packed[kernel])
        for kernel in ORDER
    )


def _why(family: str, models: list[Any], padded: tuple[str, ...], packed: tuple[str, ...]) -> str:
    reasons = []
    if VARLEN not in padded:
        errors = next(model.padded[VARLEN] for model in models if model.padded[VARLEN])
        reasons.append(next(text for pattern, text in REASONS if re.search(pattern, errors)))
    if padded and not packed:
        reasons.append(RECURRENT if _recurrent(family) else NOT_PACKED)
    elif len(packed) < len(padded):
        reasons.append(PARTLY)
    return "; ".join(reasons)


def _recurrent(family: str) -> bool:
    from transformers import AutoModelForCausalLM

    from finetune_trainer.attention import layers

    model = AutoModelForCausalLM.from_config(tiny.config(family))
    return bool(layers.inspect(model).recurrent)
