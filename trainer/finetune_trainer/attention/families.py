"""Which attention kernels compute a model correctly: the measured table of model families.

``make conformance`` writes the table (``families.json``) for one version of transformers.
A model that the table does not cover trains with SDPA and without packing: its family, a type of
its layers, or the version of transformers is another one.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.attention.kernels import EAGER, LARGEST_HEAD, SDPA, VARLEN, Support
from finetune_trainer.errors import InvalidSpec

FILE = Path(__file__).with_name("families.json")
LAYERS = ("layer_types", "layers_block_type", "block_types")
"""Fields of a config.json with the type of each layer."""
HEADS = ("head_dim", "global_head_dim", "swa_head_dim", "qk_head_dim", "attention_head_dim")
"""Fields of a config.json with the head size of some or all layers."""


NOT_TEXT = ("vision", "audio", "quantization")
"""Beginnings of the names of objects in a config.json that do not describe the language model."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the table.

    padded, packed: as in ``Support``. layers: the measured types of layers. why: the reason why
    kernels are missing. rejected: why the family cannot be trained; empty if it can. decoder:
    whether this holds for ``is_decoder: true`` only. capped: whether soft-capping is on by default;
    FlashAttention was then measured without it. unmeasured: why the family was not measured.
    """

    padded: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    why: str = ""
    rejected: str = ""
    decoder: bool = False
    capped: bool = False
    unmeasured: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The families by ``model_type``, measured with one version of transformers."""

    transformers: str
    families: Mapping[str, Family]


@functools.cache
def table() -> Table:
    """Return the table of this image."""
    written = json.loads(FILE.read_text(encoding="utf-8"))
    rows = {name: _family(row) for name, row in written["families"].items()}
    return Table(transformers=written["transformers"], families=rows)


def _family(row: Mapping[str, Any]) -> Family:
    lists = {key: tuple(values) for key, values in row.items() if isinstance(values, list)}
    return Family(**{**row, **lists})


def support(config: Mapping[str, Any], *, transformers: str | None = None) -> Support:
    """Return the kernels that compute a model. Raise InvalidSpec if it cannot be trained at all.

    config: config.json of the base. transformers: the installed version; None where none is
    installed, which then is that of the table.
    """
    name, tested = str(config.get("model_type")), table()
    family = tested.families.get(name)
    if transformers not in (None, tested.transformers):
        return _unknown(f"the attention kernels are not tested with transformers {transformers}")
    if family is None or family.unmeasured:
        return _unknown(f"the attention kernels are not tested with model family {name}")
    _require_trainable(name, family, config)
    types = {layer for part in _parts(config) for key in LAYERS for layer in _texts(part.get(key))}
    if other := sorted(types - set(family.layers)):
        return _unknown(
            f"the attention kernels are not tested with layers of type {', '.join(other)}, which "
            f"config.json of the base ({name}) contains"
        )
    supported = Support(
        padded=family.padded,
        packed=family.packed,
        capped=is_capped(config, by_default=family.capped),
        reason=f"model family {name}: {family.why}" if family.why else "",
    )
    return without_large_heads(supported, _largest_head(config))


def without_large_heads(support: Support, largest: int) -> Support:
    """Return the kernels that compute a model whose largest head has this size."""
    if largest <= LARGEST_HEAD or VARLEN not in (*support.padded, *support.packed):
        return support
    return replace(
        support,
        padded=tuple(kernel for kernel in support.padded if kernel != VARLEN),
        packed=tuple(kernel for kernel in support.packed if kernel != VARLEN),
        reason=f"FlashAttention-2 supports heads of at most {LARGEST_HEAD} values, but the base "
        f"has heads of {largest}",
    )


def is_capped(config: Mapping[str, Any], *, by_default: bool = False) -> bool:
    """Report whether a config.json sets soft-capping or dropout of the attention.

    PyTorch's FlashAttention-2 for rows of different lengths supports neither. by_default: whether
    soft-capping is on where the field is missing.
    """
    parts = list(_parts(config))
    written = [part["attn_logit_softcapping"] for part in parts if "attn_logit_softcapping" in part]
    return (
        any(written)
        or (by_default and not written)
        or any(
            value
            for part in parts
            for field, value in part.items()
            # attention_dropout, attn_pdrop, attention_probs_dropout_prob, …
            if "att" in str(field) and "drop" in str(field)
        )
    )


def _unknown(reason: str) -> Support:
    return Support(padded=(SDPA, EAGER), packed=(), reason=reason, unknown=True)


def _require_trainable(name: str, family: Family, config: Mapping[str, Any]) -> None:
    reason = family.rejected
    if family.decoder and not config.get("is_decoder"):
        reason = "its tokens see later tokens, unless config.json sets is_decoder"
    for part in _parts(config):
        if part.get("use_bidirectional_attention") in (True, "all"):
            reason = "its tokens see later tokens (use_bidirectional_attention in config.json)"
    if reason:
        raise InvalidSpec(
            f"the base model is of family {name}, which cannot be trained: {reason}. Choose "
            "another base model"
        )


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return a config.json and its nested objects that describe the language model."""
    yield config
    for key, value in config.items():
        if isinstance(value, dict) and not str(key).startswith(NOT_TEXT):
            yield from _parts(value)


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _largest_head(config: Mapping[str, Any]) -> int:
    sizes = [
        value
        for part in _parts(config)
        for field in HEADS
        if isinstance(value := part.get(field), int)
    ]
    for part in _parts(config):
        hidden, heads = part.get("hidden_size"), part.get("num_attention_heads")
        if part.get("head_dim") is None and isinstance(hidden, int) and isinstance(heads, int):
            sizes.append(hidden // max(1, heads))
    return max(sizes, default=0)
