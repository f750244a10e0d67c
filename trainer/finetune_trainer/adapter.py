"""A LoRA adapter in PEFT's format, as the merge needs it: pairs of matrices by base tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.base import read_json
from finetune_trainer.errors import NotMergeable
from finetune_trainer.tensors import Header, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The names, in the adapter's file, of what changes one base tensor."""

    target: str
    a: str
    b: str
    magnitude: str | None


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter. ``pairs`` is keyed by the base tensor's name."""

    path: Path
    scaling: float
    pairs: dict[str, Pair]
    header: Header


def read(folder: Path, base: Header) -> Adapter:
    """Read an adapter and check, before anything is written, that all of it fits this base.

    Raises NotMergeable, with the tensor's name, for a pair that has no base tensor, is half, has
    another shape, or is of a kind that does not fold into a weight.
    """
    config = read_json(folder / CONFIG)
    _refuse_other_kinds(config)
    header = read_header(folder, [WEIGHTS])
    found: dict[str, dict[str, str]] = {}
    for name in header.tensors:
        suffix = next((each for each in PARTS if name.endswith(each)), None)
        if suffix is None or not name.startswith(PREFIX):
            raise NotMergeable(
                f"the adapter holds {name}, which is no part of a LoRA pair: it cannot be folded "
                "into a weight"
            )
        target = name.removeprefix(PREFIX).removesuffix(suffix) + ".weight"
        found.setdefault(target, {})[PARTS[suffix]] = name
    if not found:
        raise NotMergeable("the adapter holds no LoRA pair: train again with spec.rerun")
    dora = bool(config.get("use_dora"))
    pairs = {target: _pair(target, parts, dora=dora) for target, parts in found.items()}
    for pair in pairs.values():
        _refuse_misfit(pair, header, base)
    rank, alpha = config["r"], config["lora_alpha"]
    scaling = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    return Adapter(path=folder / WEIGHTS, scaling=scaling, pairs=pairs, header=header)


def _refuse_other_kinds(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise NotMergeable(f"the adapter is of type {config.get('peft_type')}, not LORA")
    unsupported = {
        name: config.get(name)
        for name in (
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "lora_bias",
            "fan_in_fan_out",
            "layer_replication",
            "target_parameters",
            "trainable_token_indices",
            "alora_invocation_tokens",
        )
        if config.get(name)
    }
    if unsupported:
        raise NotMergeable(f"the adapter uses {unsupported}, which this merge does not know")
    if config.get("bias", "none") != "none":
        raise NotMergeable(
            f"the adapter trains biases ({config['bias']}), which stay out of a merge"
        )


def _pair(target: str, parts: dict[str, str], *, dora: bool) -> Pair:
    missing = {"a", "b", *(["magnitude"] if dora else [])} - set(parts)
    if missing:
        raise NotMergeable(f"the adapter's pair for {target} is incomplete: {sorted(missing)}")
    magnitude = parts.get("magnitude")
    return Pair(target=target, a=parts["a"], b=parts["b"], magnitude=magnitude)


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
