"""QLoRA with Unsloth, which makes the model and patches the libraries that train it.

Unsloth must be imported before those libraries and patches them for the whole process. Therefore
this module is imported only if unsloth is the backend.
"""

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
# The recipe decides. On a CPU without native bfloat16, Unsloth would keep the base in bfloat16, but
# compute without autocast, and the first step would fail.
os.environ["UNSLOTH_CPU_BF16"] = "1"

import unsloth

# isort: split
from pathlib import Path
from typing import Any

import torch

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import FLASH, SDPA, uses_package
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.models import text_model
from finetune_trainer.runtime import pod_limits
from finetune_trainer.training.backends import (
    TrainOutput,
    TrainRequest,
    library_arguments,
    sft,
    trl,
)
from finetune_trainer.training.loop.monitor import Monitor

VERSIONS = (*trl.VERSIONS, "unsloth", "unsloth_zoo")


class UnslothBackend:
    """The faster backend, which only some images contain."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that a checkpoint depends on."""
        return {name: importlib.metadata.version(name) for name in VERSIONS}

    def can_offload(self, recipe: Training) -> bool:
        """Report whether activations stay on the card by default.

        Unsloth's gradient checkpointing moves them to RAM anyway.
        """
        return recipe.advanced.gradient_checkpointing is False

    def train(self, request: TrainRequest, monitor: Monitor, adapter: Path) -> TrainOutput:
        """Train, and save the adapter into ``adapter`` if all steps are done."""
        # Unsloth searches rows for tokens on which the base was never trained, and edits the base.
        # The prepare stage has done this check.
        os.environ["UNSLOTH_IGNORED_TOKENIZER_NAMES"] = str(request.base)
        pod_limits.limit_pinned(os.environ)
        return sft.train(request, monitor, adapter, FACTORY)


def _choose(request: TrainRequest, device: Device) -> str:
    capability = device.capability if device.cuda else None
    return FLASH if uses_package(request.recipe, capability) else SDPA


def _load(request: TrainRequest, device: Device, attention: str) -> Any:
    """Return the 4-bit base model."""
    recipe = request.recipe
    family = text_model.load_config(request.base).model_type
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(request.base),
        max_seq_length=recipe.sequence_length,
        dtype=getattr(torch, recipe.advanced.quantization.compute_dtype),
        load_in_4bit=True,
        quantization_config=library_arguments.quantization_config(recipe, family),
        attn_implementation=attention,
        random_state=recipe.seed,
        trust_remote_code=False,
        local_files_only=True,
        use_gradient_checkpointing=_checkpointing(request),
    )
    return trl.for_training(model)


def _adapt(request: TrainRequest, model: Any) -> Any:
    """Return the base model with a new adapter."""
    recipe = request.recipe
    lora = library_arguments.lora_config(recipe, model)
    with _offload_folder(model) as folder:
        return unsloth.FastLanguageModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=_targets(request),
            modules_to_save=lora.modules_to_save,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            bias="none",
            random_state=recipe.seed,
            max_seq_length=recipe.sequence_length,
            use_gradient_checkpointing=_checkpointing(request),
            temporary_location=folder,
        )


@contextmanager
def _offload_folder(model: Any) -> Iterator[str]:
    """Provide a folder for the frozen originals of fully trained modules.

    Unsloth moves them off the card into memory-mapped files in this folder, under the model's name.
    The name is an absolute path here, which would replace the folder: the files would be written
    next to the base on the volume. So the model has another name within the block.
    """
    name = model.config._name_or_path
    with tempfile.TemporaryDirectory() as folder:
        model.config._name_or_path = "base"
        try:
            yield folder
        finally:
            model.config._name_or_path = name


def _targets(request: TrainRequest) -> str | list[str]:
    names = request.recipe.lora.target_modules
    return "all-linear" if names == ["all-linear"] else list(names)


def _checkpointing(request: TrainRequest) -> bool | str:
    memory, written = request.memory, request.recipe.advanced.gradient_checkpointing
    on = written is not False or memory.offload or memory.recompute
    return "unsloth" if on else False


def attention(request: TrainRequest, model: Any) -> str:
    """Return the attention kernel in use.

    On a GPU, Unsloth's own attention picks one of the installed kernels, whatever
    ``attn_implementation`` the model was loaded with.
    """
    chooses = sys.modules.get("unsloth.utils.attention_dispatch")
    own = any(
        module.forward.__module__.startswith("unsloth.models.")
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
    )
    if chooses is None or not own:
        return str(model.config._attn_implementation)
    chosen = str(chooses.select_attention_backend(request.packed))
    return "flash_attention_2" if chosen.startswith("flash") else chosen


FACTORY = sft.ModelFactory(choose=_choose, load=_load, adapt=_adapt, attention=attention)
