"""Whether an adapter fits a recipe and its base, so that training can continue from it. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.training.lora import Lora
from finetune_api.v1alpha1.training.start_from import START_FROM
from finetune_trainer.checkpointing.adapter_files import OTHER_KINDS, foreign_tensor, is_within
from finetune_trainer.checkpointing.safetensors_header import Header
from finetune_trainer.errors import InvalidSpec

_PATTERNS = ("rank_pattern", "alpha_pattern")
_INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` with which PEFT leaves the base as it is. With the others, it may
subtract the principal part, which the adapter contains, from the base each time it loads one."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def check_recipe(lora: Lora, config: Mapping[str, Any], *, source: str) -> None:
    """Raise InvalidSpec unless the recipe describes the adapter. config: adapter_config.json."""
    if config.get("peft_type") != "LORA":
        raise _unfit(
            source, f"is of the type {_shown(config.get('peft_type'))}: only LoRA can be continued"
        )
    unsupported = [name for name in (*OTHER_KINDS, *_PATTERNS) if config.get(name)]
    if config.get("bias", "none") != "none":
        unsupported.append("bias")
    if unsupported:
        raise _unfit(
            source,
            f"sets {', '.join(unsupported)}, which the trainer does not support: choose another "
            "adapter",
        )
    initialization = config.get("init_lora_weights")
    if initialization not in _INITIALIZATIONS:
        raise _unfit(
            source,
            f"has the init_lora_weights {_shown(initialization)}, which changes the base beside "
            "the adapter: convert the adapter to a plain one with PEFT "
            "(path_initial_model_for_weight_conversion), or choose another adapter",
        )
    saved = config.get("modules_to_save")
    for field, own, theirs in (
        ("r", lora.r, config.get("r")),
        ("alpha", lora.alpha, config.get("lora_alpha")),
        ("useRslora", lora.use_rslora, bool(config.get("use_rslora"))),
        ("useDora", lora.use_dora, bool(config.get("use_dora"))),
        ("modulesToSave", sorted(lora.modules_to_save or ()), _names(saved)),
    ):
        if own != theirs:
            raise _unfit(
                source,
                f"has {field} {_shown(theirs)}, but training.lora.{field} is {_shown(own)}: set "
                f"training.lora.{field} to {_shown(theirs)}, or choose another adapter",
            )


def check_tensors(lora: Lora, header: Header, *, source: str) -> None:
    """Raise InvalidSpec for a matrix of another rank, or a tensor that would replace the base's."""
    if (foreign := foreign_tensor(header, lora.modules_to_save or ())) is not None:
        raise _unfit(
            source,
            f"has the tensor {one_line(foreign, 200)}, which is neither a LoRA matrix nor part of "
            "a module in training.lora.modulesToSave: save the adapter with PEFT's "
            "save_embedding_layers=False, or choose another adapter",
        )
    for name, tensor in header.tensors.items():
        shape = tensor.shape
        for suffix, axis in ((".lora_A.weight", 0), (".lora_B.weight", 1)):
            if name.endswith(suffix) and (len(shape) != 2 or shape[axis] != lora.r):
                raise _unfit(
                    source,
                    f"has the tensor {one_line(name, 200)} of the shape {shape}, which does not "
                    f"have the rank {lora.r}: choose another adapter",
                )


def check_base(
    base: str, commit: str, config: Mapping[str, Any], facts: Mapping[str, Any], *, source: str
) -> tuple[str, ...]:
    """Return warnings about what is not proved. Raise InvalidSpec for an adapter of another base.

    base, commit: of the job's model. facts: about the adapter, from a manifest of this project.
    """
    if "baseCommit" in facts:
        _require_commit(facts["baseCommit"], facts["baseSource"], commit, base, source=source)
        return ()
    name, own = str(config.get("base_model_name_or_path") or ""), base.removeprefix("hf://")
    on_hub = base.startswith("hf://")
    same = name == own if on_hub else _last(name) == _last(own)
    if not name or not same:
        raise _unfit(
            source,
            f"was trained on {_shown(name or None)}, according to its adapter_config.json, but "
            f"model.source is {base}: set model.source to that model, or choose another adapter",
        )
    revision = str(config.get("revision") or "").lower()
    if on_hub and _COMMIT.fullmatch(revision):
        _require_commit(revision, base, commit, base, source=source)
        return ()
    return (
        f"the adapter {source} names its base {one_line(name, 200)} without a commit, so nothing "
        f"proves that it was trained on commit {commit}: check the losses of the first steps",
    )


def check_modules(
    lora: Lora, changed: Collection[str], base: Header, layers: Collection[str], *, source: str
) -> None:
    """Raise InvalidSpec unless the adapter changes exactly the tensors that the recipe trains.

    changed: names of the base's tensors that the adapter changes. base: with those names. layers:
    that get an adapter with ``all-linear``.
    """
    unknown = sorted(name for name in changed if name not in base.tensors)
    if unknown:
        raise _unfit(
            source,
            f"changes {one_line(unknown[0], 200)}, which the base model does not have: choose an "
            "adapter of this base model",
        )
    if lora.target_modules == ["all-linear"]:
        trained = {f"{layer}.weight" for layer in layers}
    else:
        trained = {
            name
            for name, tensor in base.tensors.items()
            if len(tensor.shape) == 2 and _ends_with(name, lora.target_modules)
        }
    own, theirs = (_without(names, lora.modules_to_save or ()) for names in (trained, changed))
    if own == theirs:
        return
    modules = sorted({name.split(".")[-2] for name in theirs})
    which = min(own ^ theirs)
    has = "changes" if which in theirs else "does not change"
    raise _unfit(
        source,
        f"{has} {one_line(which, 200)}, unlike training.lora.targetModules: set targetModules to "
        f"the modules of the adapter, [{one_line(', '.join(modules), 300)}], or choose another "
        "adapter",
    )


def _require_commit(trained: str, name: str, commit: str, base: str, *, source: str) -> None:
    """Raise InvalidSpec if an adapter of commit ``trained`` of ``name`` is one of another base."""
    if trained != commit:
        raise _unfit(
            source,
            f"was trained on commit {trained} of {name}, but the model of the job is commit "
            f"{commit} of {base}: set model.source to {name}, and model.revision to {trained} if "
            "that is a repository on the hub, or choose another adapter",
        )


def _ends_with(tensor: str, modules: Collection[str]) -> bool:
    return any(f".{tensor}".endswith(f".{module}.weight") for module in modules)


def _without(tensors: Collection[str], saved: Collection[str]) -> set[str]:
    """Return the tensors that are not in fully trained modules."""
    return {name for name in tensors if not is_within(name.rpartition(".")[0], saved)}


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].partition(":")[0].lower()


def _names(value: Any) -> list[str]:
    return sorted(map(str, value)) if isinstance(value, list) else []


def _shown(value: Any) -> str:
    return one_line(str(value).lower() if isinstance(value, bool) else str(value), 200)


def _unfit(source: str, problem: str) -> InvalidSpec:
    return InvalidSpec(f"the adapter {source} in {START_FROM} {problem}")
