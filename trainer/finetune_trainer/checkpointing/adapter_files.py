"""A LoRA adapter in PEFT's format, as the merge needs it: what changes which base tensor, and how.

A pair of matrices is added to a tensor, scaled by its own rank and alpha (patterns may set both for
single layers); a module that was trained in full (``modules_to_save``) replaces its tensors.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing.safetensors_header import (
    FLOATS,
    Header,
    TensorInfo,
    read_header,
)
from finetune_trainer.errors import NotMergeable
from finetune_trainer.runtime.files import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
OTHER_KINDS = (
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "arrow_config",
    "use_bdlora",
)
EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The names, in the adapter's file, of what is added to one base tensor."""

    target: str
    a: str
    b: str
    magnitude: str | None
    scaling: float


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter. ``pairs`` and ``replacements`` are keyed by the base tensor's name."""

    path: Path
    pairs: dict[str, Pair]
    replacements: dict[str, str]
    header: Header

    @property
    def targets(self) -> set[str]:
        """Names of the base tensors that it changes."""
        return {*self.pairs, *self.replacements}


def read(folder: Path, base: Header, *, tied: bool) -> Adapter:
    """Read an adapter and check, before anything is written, that all of it fits this base.

    tied: whether the base's head is its embedding. Raises NotMergeable, with the tensor's name, for
    a pair that has no base tensor or one of integers, is half, has another shape, or is of a kind
    that does not fold into a weight.
    """
    config = read_json(folder / CONFIG)
    _refuse_other_kinds(config)
    header = read_header(folder, [WEIGHTS])
    saved = tuple(config.get("modules_to_save") or ())
    found: dict[str, dict[str, str]] = {}
    replacements = {}
    for name in header.tensors:
        target = name.removeprefix(PREFIX)
        suffix = next((each for each in PARTS if name.endswith(each)), None)
        if target != name and suffix is not None:
            target = target.removesuffix(suffix) + ".weight"
            found.setdefault(target, {})[PARTS[suffix]] = name
        elif target != name and _within(target.rpartition(".")[0], saved):
            replacements[target] = name
        else:
            raise NotMergeable(
                f"the adapter holds {name}, which is no part of a LoRA pair: it cannot be folded "
                "into a weight"
            )
    if not found and not replacements:
        raise NotMergeable("the adapter holds no LoRA pair: train again with spec.rerun")
    pairs = {
        target: _pair(target, parts, config, header) for target, parts in sorted(found.items())
    }
    if tied or not any(EMBEDDINGS[1] in name.split(".") for name in base.tensors):
        _refuse_tied([*pairs, *replacements])
    for pair in pairs.values():
        _refuse_misfit(pair, header, base)
    for target, name in replacements.items():
        _refuse_misplaced(target, header.tensors[name].shape, base, pairs)
    return Adapter(path=folder / WEIGHTS, pairs=pairs, replacements=replacements, header=header)


def _refuse_other_kinds(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise NotMergeable(f"the adapter is of type {config.get('peft_type')}, not LORA")
    unsupported = {name: config[name] for name in OTHER_KINDS if config.get(name)}
    if unsupported:
        raise NotMergeable(f"the adapter uses {unsupported}, which this merge does not know")
    if config.get("bias", "none") != "none":
        raise NotMergeable(
            f"the adapter trains biases ({config['bias']}), which stay out of a merge"
        )


def _within(module: str, saved: Iterable[str]) -> bool:
    """Tell whether a module is one that was trained in full, or lies in one (PEFT's own rule)."""
    parts = module.split(".")
    return any(name in parts or module.endswith(name) for name in saved)


def _pair(target: str, parts: dict[str, str], config: dict[str, Any], header: Header) -> Pair:
    dora = bool(config.get("use_dora"))
    missing = {"a", "b", *(["magnitude"] if dora else [])} - set(parts)
    if missing:
        raise NotMergeable(f"the adapter's pair for {target} is incomplete: {sorted(missing)}")
    module = target.removesuffix(".weight")
    rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if header.tensors[parts["a"]].shape[0] != rank:
        raise NotMergeable(
            f"the adapter's pair for {target} has rank {header.tensors[parts['a']].shape[0]}, its "
            f"configuration says {rank}"
        )
    return Pair(
        target=target,
        a=parts["a"],
        b=parts["b"],
        magnitude=parts.get("magnitude"),
        scaling=alpha / rank**0.5 if config.get("use_rslora") else alpha / rank,
    )


def _of_pattern(pattern: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return what a pattern sets for a module; the first that fits counts, as in PEFT."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _refuse_tied(targets: Iterable[str]) -> None:
    for target in targets:
        if any(name in target.split(".") for name in EMBEDDINGS):
            raise NotMergeable(
                f"the adapter changes {target}, but embedding and head of this base are one "
                "tensor: merge.enabled must be false for it"
            )


def _refuse_misfit(pair: Pair, header: Header, base: Header) -> None:
    tensor = base.tensors.get(pair.target)
    if tensor is None:
        raise NotMergeable(
            f"the adapter changes {pair.target}, which the base's files do not have under that "
            "name: merge.enabled must be false for this model"
        )
    a, b = header.tensors[pair.a].shape, header.tensors[pair.b].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != tensor.shape:
        raise NotMergeable(
            f"the adapter's pair for {pair.target} has the shapes {a} and {b}, the base tensor "
            f"{tensor.shape}"
        )
    if pair.magnitude is not None and header.tensors[pair.magnitude].shape != tensor.shape[:1]:
        raise NotMergeable(
            f"the adapter's magnitudes for {pair.target} have the shape "
            f"{header.tensors[pair.magnitude].shape}, the base tensor {tensor.shape}"
        )
    _refuse_integers(tensor)


def _refuse_integers(tensor: TensorInfo) -> None:
    if tensor.dtype not in FLOATS:
        raise NotMergeable(
            f"{tensor.name} is {tensor.dtype}, which nothing can be added to: choose a base with "
            "16-bit weights"
        )


def _refuse_misplaced(
    target: str,
    shape: tuple[int, ...],
    base: Header,
    pairs: dict[str, Pair],
) -> None:
    tensor = base.tensors.get(target)
    if tensor is None or target in pairs:
        why = "it also changes" if target in pairs else "the base's files do not have"
        raise NotMergeable(f"the adapter replaces {target}, which {why}")
    if tensor.shape != shape:
        raise NotMergeable(
            f"the adapter replaces {target} by one of shape {shape}, the base's is {tensor.shape}"
        )
    _refuse_integers(tensor)
