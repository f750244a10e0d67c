"""QLoRA with Unsloth, which makes the model and changes the libraries that train it.

It must be imported before them, and it changes them for the whole process; so this module is
imported only where it is the backend.
"""

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

import unsloth

# isort: split
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit

from finetune_api.v1alpha1.training import Training
from finetune_trainer.runtime import capabilities
from finetune_trainer.runtime import device as devices
from finetune_trainer.runtime.device import Device
from finetune_trainer.training.backends import Order, Trained, library_arguments, sft, trl
from finetune_trainer.training.monitor import Monitor

VERSIONS = (*trl.VERSIONS, "unsloth", "unsloth_zoo")


class UnslothBackend:
    """The built-in backend."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that a checkpoint depends on."""
        return {name: importlib.metadata.version(name) for name in VERSIONS}

    def scales_loss(self, recipe: Training) -> bool:
        """Tell whether float16 loss scaling is used."""
        return capabilities.scales_loss(recipe, devices.detect())

    def can_offload(self, recipe: Training) -> bool:
        """Tell whether activations stay on the card; its checkpointing moves them to RAM anyway."""
        return not recipe.advanced.gradient_checkpointing

    def train(self, order: Order, monitor: Monitor, adapter: Path) -> Trained:
        """Train, and save the adapter into ``adapter`` if all steps were done."""
        return sft.train(order, monitor, adapter, LIBRARY)


def _load(order: Order, device: Device, attention: str) -> Any:
    """Return the 4-bit base."""
    recipe = order.recipe
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(order.base),
        max_seq_length=recipe.sequence_length,
        dtype=getattr(torch, recipe.advanced.quantization.compute_dtype),
        load_in_4bit=True,
        quantization_config=library_arguments.quantization_config(recipe),
        attn_implementation=attention,
        random_state=recipe.seed,
        trust_remote_code=False,
        local_files_only=True,
        use_gradient_checkpointing=_checkpointing(order),
    )
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def _adapt(order: Order, model: Any) -> Any:
    """Return the base with a fresh adapter."""
    recipe = order.recipe
    lora = library_arguments.lora_config(recipe)
    with _moving_what_is_copied(model) as folder:
        return unsloth.FastLanguageModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=_targets(order),
            modules_to_save=lora.modules_to_save,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            bias="none",
            random_state=recipe.seed,
            max_seq_length=recipe.sequence_length,
            use_gradient_checkpointing=_checkpointing(order),
            temporary_location=folder,
        )


@contextmanager
def _moving_what_is_copied(model: Any) -> Iterator[str]:
    """Give Unsloth a folder for the frozen originals of modules that are trained in full.

    It takes them off the card, into a file that stays mapped, below this folder and the model's
    name; as that is an absolute path, it would be the base's own folder on the volume.
    """
    name = model.config._name_or_path
    with tempfile.TemporaryDirectory() as folder:
        model.config._name_or_path = "base"
        try:
            yield folder
        finally:
            model.config._name_or_path = name


def _targets(order: Order) -> str | list[str]:
    names = order.recipe.lora.target_modules
    return "all-linear" if names == ["all-linear"] else list(names)


def _checkpointing(order: Order) -> bool | str:
    on = order.recipe.advanced.gradient_checkpointing or order.rung.offload
    return "unsloth" if on else False


def attention(order: Order, model: Any) -> str:
    """Return the kernel that trains.

    The attention that Unsloth writes itself, on a card, chooses among what is installed, whatever
    the model was loaded with.
    """
    chooses = sys.modules.get("unsloth.utils.attention_dispatch")
    own = any(
        each.forward.__module__.startswith("unsloth.models.")
        for each in model.modules()
        if type(each).__name__.endswith("Attention")
    )
    if chooses is None or not own:
        return str(model.config._attn_implementation)
    chosen = str(chooses.select_attention_backend(order.packed))
    return "flash_attention_2" if chosen.startswith("flash") else chosen


LIBRARY = sft.Library(load=_load, adapt=_adapt, attention=attention)
