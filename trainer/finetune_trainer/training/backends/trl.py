"""QLoRA with transformers, PEFT, TRL and bitsandbytes as they come."""

import importlib.metadata
from pathlib import Path
from typing import Any

import peft
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime import capabilities
from finetune_trainer.runtime import device as devices
from finetune_trainer.runtime.device import Device
from finetune_trainer.training.backends import Order, Trained, library_arguments, sft
from finetune_trainer.training.monitor import Monitor

VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


class TrlBackend:
    """The backend that every image has."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that a checkpoint depends on."""
        return {name: importlib.metadata.version(name) for name in VERSIONS}

    def scales_loss(self, recipe: Training) -> bool:
        """Tell whether float16 loss scaling is used."""
        return capabilities.scales_loss(recipe, devices.detect())

    def can_offload(self, recipe: Training) -> bool:
        """Tell that TRL can move activations to RAM."""
        return True

    def train(self, order: Order, monitor: Monitor, adapter: Path) -> Trained:
        """Train, and save the adapter into ``adapter`` if all steps were done."""
        return sft.train(order, monitor, adapter, LIBRARY)


def _load(order: Order, device: Device, attention: str) -> Any:
    """Return the 4-bit base."""
    compute = getattr(torch, order.recipe.advanced.quantization.compute_dtype)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            order.base,
            output_loading_info=True,
            quantization_config=library_arguments.quantization_config(order.recipe),
            dtype=compute,
            attn_implementation=attention,
            device_map={"": 0 if device.cuda else "cpu"},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except ImportError as error:
        raise InvalidSpec(f"the base needs a library that this image lacks: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            raise InvalidSpec(
                f"the base's weights do not fit its config.json ({problem}: "
                f"{sorted(map(str, report[problem]))[0]}): choose another revision of the model"
            )
    # With the key-value cache on, packed rows see each other where FlashAttention is not used.
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 an evaluation repacks the weights, and every backward pass
            # after it is wrong (measured: loss 3.876 instead of 3.705 at step 30).
            module.support_avx512bf16_for_cpu = False
    return model


def _adapt(order: Order, model: Any) -> Any:
    """Return the base with a fresh adapter."""
    return peft.get_peft_model(model, library_arguments.lora_config(order.recipe))


def _attention(order: Order, model: Any) -> str:
    return str(model.config._attn_implementation)


LIBRARY = sft.Library(load=_load, adapt=_adapt, attention=_attention)
