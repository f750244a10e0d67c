"""Read a LoRA adapter in PEFT's format: which base tensors it changes, and how.

A pair of matrices A and B is added to a tensor, scaled by its alpha and rank (patterns may set both
per layer). A fully trained module (``modules_to_save``) replaces its tensors.
"""

import re
from collections.abc import Collection, Iterable
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
from finetune_trainer.volume.files import read_json

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
    "kasa_config",
    "monteclora_config",
)
EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True, kw_only=True)
class LoraPair:
    """Names of the tensors in the adapter's file that change one base tensor."""

    target: str
    a: str
    b: str
    magnitude: str | None
    scaling: float


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter. ``pairs`` and ``replacements`` are keyed by the base tensor's name."""

    path: Path
    pairs: dict[str, LoraPair]
    replacements: dict[str, str]
    header: Header

    @property
    def targets(self) -> set[str]:
        """Names of the base tensors that the adapter changes."""
        return {*self.pairs, *self.replacements}


def changed_tensors(folder: Path) -> set[str]:
    """Return the names of the tensors that the files of an adapter change."""
    return {_target(name)[0] for name in read_header(folder, [WEIGHTS]).tensors}


def adapted_modules(folder: Path) -> list[str]:
    """Return the names of the modules that an adapter changes, without their path, sorted."""
    return sorted({name.split(".")[-2] for name in changed_tensors(folder)})


def read(folder: Path, base: Header, *, tied: bool) -> Adapter:
    """Read an adapter and check that all of it fits this base, before anything is written.

    tied: whether the base's head shares its embedding. Raise NotMergeable, with the tensor's name,
    if a pair has no base tensor, or an integer one, is incomplete, has another shape, or is of a
    kind that cannot be merged into a weight.
    """
    config = read_json(folder / CONFIG)
    _require_plain_lora(config)
    header = read_header(folder, [WEIGHTS])
    if (foreign := foreign_tensor(header, config.get("modules_to_save") or ())) is not None:
        raise NotMergeable(
            f"the adapter contains {foreign}, which is neither a LoRA matrix nor part of a "
            "module in modules_to_save, so it cannot be merged: set merge.enabled to false"
        )
    matrices: dict[str, dict[str, str]] = {}
    replacements = {}
    for name in header.tensors:
        target, part = _target(name)
        if part is None:
            replacements[target] = name
        else:
            matrices.setdefault(target, {})[part] = name
    if not matrices and not replacements:
        raise NotMergeable(
            "the adapter contains neither LoRA matrices nor fully trained modules: to retrain, "
            "set spec.rerun to a new value"
        )
    pairs = {
        target: _pair(target, parts, config, header) for target, parts in sorted(matrices.items())
    }
    if tied or not any(EMBEDDINGS[1] in name.split(".") for name in base.tensors):
        _require_untied([*pairs, *replacements])
    for pair in pairs.values():
        _require_matching_shapes(pair, header, base)
    for target, name in replacements.items():
        _require_replaceable(target, header.tensors[name].shape, base, pairs)
    return Adapter(path=folder / WEIGHTS, pairs=pairs, replacements=replacements, header=header)


def foreign_tensor(header: Header, saved: Collection[str]) -> str | None:
    """Return a tensor that is no LoRA matrix and in no fully trained module; None without one.

    header: of an adapter. saved: its ``modules_to_save``.
    """
    for name in header.tensors:
        target, part = _target(name)
        belongs = part is not None or is_within(target.rpartition(".")[0], saved)
        if not belongs or not name.startswith(PREFIX):
            return name
    return None


def is_within(module: str, saved: Iterable[str]) -> bool:
    """Report whether a module is a fully trained one or inside one (PEFT's own rule)."""
    parts = module.split(".")
    return any(name in parts or module.endswith(name) for name in saved)


def _target(name: str) -> tuple[str, str | None]:
    """Return the tensor that a tensor of the adapter changes, and which part of a pair it is."""
    target = name.removeprefix(PREFIX)
    suffix = next((ending for ending in PARTS if name.endswith(ending)), None)
    if suffix is None:
        return target, None
    return f"{target.removesuffix(suffix)}.weight", PARTS[suffix]


def _require_plain_lora(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise NotMergeable(
            f"the adapter has peft_type {config.get('peft_type')}, but only LORA can be merged: "
            "set merge.enabled to false"
        )
    unsupported = {name: config[name] for name in OTHER_KINDS if config.get(name)}
    if unsupported:
        raise NotMergeable(
            f"{CONFIG} of the adapter sets {unsupported}, which the merge does not support: set "
            "merge.enabled to false"
        )
    if config.get("bias", "none") != "none":
        raise NotMergeable(
            f"the adapter contains trained biases (bias: {config['bias']}), which the merge does "
            "not support: set merge.enabled to false"
        )


def _pair(target: str, parts: dict[str, str], config: dict[str, Any], header: Header) -> LoraPair:
    dora = bool(config.get("use_dora"))
    missing = {"a", "b", *(["magnitude"] if dora else [])} - set(parts)
    if missing:
        raise NotMergeable(
            f"the adapter does not contain all LoRA tensors for {target} (missing: "
            f"{', '.join(sorted(missing))}): to retrain, set spec.rerun to a new value"
        )
    module = target.removesuffix(".weight")
    rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if header.tensors[parts["a"]].shape[0] != rank:
        raise NotMergeable(
            f"the LoRA matrices for {target} have rank {header.tensors[parts['a']].shape[0]}, but "
            f"{CONFIG} sets rank {rank}: to retrain, set spec.rerun to a new value"
        )
    return LoraPair(
        target=target,
        a=parts["a"],
        b=parts["b"],
        magnitude=parts.get("magnitude"),
        scaling=alpha / rank**0.5 if config.get("use_rslora") else alpha / rank,
    )


def _of_pattern(pattern: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches a module, as PEFT does."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _require_untied(targets: Iterable[str]) -> None:
    for target in targets:
        if any(name in target.split(".") for name in EMBEDDINGS):
            raise NotMergeable(
                f"the adapter changes {target}, but the embedding and the head of the base model "
                "share one tensor: set merge.enabled to false"
            )


def _require_matching_shapes(pair: LoraPair, header: Header, base: Header) -> None:
    tensor = base.tensors.get(pair.target)
    if tensor is None:
        raise NotMergeable(
            f"the adapter changes {pair.target}, but the files of the base model contain no tensor "
            "of this name: set merge.enabled to false"
        )
    a, b = header.tensors[pair.a].shape, header.tensors[pair.b].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != tensor.shape:
        raise NotMergeable(
            f"the LoRA matrices A and B for {pair.target} have the shapes {a} and {b}, which do "
            f"not match the shape {tensor.shape} of the base tensor: to retrain, set spec.rerun to "
            "a new value"
        )
    if pair.magnitude is not None and header.tensors[pair.magnitude].shape != tensor.shape[:1]:
        raise NotMergeable(
            f"the DoRA magnitudes for {pair.target} have the shape "
            f"{header.tensors[pair.magnitude].shape}, which does not match the shape "
            f"{tensor.shape} of the base tensor: to retrain, set spec.rerun to a new value"
        )
    _require_float(tensor)


def _require_float(tensor: TensorInfo) -> None:
    if tensor.dtype not in FLOATS:
        raise NotMergeable(
            f"{tensor.name} has the type {tensor.dtype}, which cannot be merged: use a base model "
            "with 16-bit weights"
        )


def _require_replaceable(
    target: str,
    shape: tuple[int, ...],
    base: Header,
    pairs: dict[str, LoraPair],
) -> None:
    tensor = base.tensors.get(target)
    if tensor is None or target in pairs:
        why = (
            "but it also has LoRA matrices for this tensor"
            if target in pairs
            else "but the files of the base model contain no tensor of this name"
        )
        raise NotMergeable(f"the adapter replaces {target}, {why}: set merge.enabled to false")
    if tensor.shape != shape:
        raise NotMergeable(
            f"the adapter replaces {target} with shape {shape}, but the base tensor's shape is "
            f"{tensor.shape}: to retrain, set spec.rerun to a new value"
        )
    _require_float(tensor)
