"""QLoRA with unmodified transformers, PEFT, TRL and bitsandbytes."""

import importlib.metadata
from pathlib import Path
from typing import Any

import peft
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.attention import kernels, packed_attention
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import special_layers, tensor_names, text_model
from finetune_trainer.training.backends import (
    TrainOutput,
    TrainRequest,
    library_arguments,
    sft,
)
from finetune_trainer.training.loop.monitor import Monitor

VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "liger_kernel")


class TrlBackend:
    """The backend that every image contains."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that a checkpoint depends on."""
        return {name: importlib.metadata.version(name) for name in VERSIONS}

    def can_offload(self, recipe: Training) -> bool:
        """Return True: TRL can move activations to RAM."""
        return True

    def train(self, request: TrainRequest, monitor: Monitor, adapter: Path) -> TrainOutput:
        """Train, and save the adapter into ``adapter`` if all steps are done."""
        return sft.train(request, monitor, adapter, FACTORY)


def _choose(request: TrainRequest, device: Device) -> str:
    """Return the attention kernel to request from transformers."""
    capability = device.capability if device.cuda else None
    kernels.check(request.recipe, capability=capability, support=request.attention)
    if request.packed:
        attention_choice.require_apart(request.recipe, capability, request.attention)
    chosen = kernels.choose(
        request.recipe, packed=request.packed, capability=capability, support=request.attention
    )
    if chosen == kernels.VARLEN:
        packed_attention.register()
    return chosen


def _load(request: TrainRequest, device: Device, kernel: str) -> Any:
    """Return the 4-bit base model."""
    compute = getattr(torch, request.recipe.advanced.quantization.compute_dtype)
    family = text_model.load_config(request.base).model_type
    special_layers.use_plain_linear(family)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            request.base,
            output_loading_info=True,
            quantization_config=library_arguments.quantization_config(request.recipe, family),
            dtype=compute,
            attn_implementation=kernel,
            device_map={"": 0 if device.cuda else "cpu"},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **tensor_names.loading_options(request.base),
        )
    except ImportError as error:
        raise InvalidSpec(
            f"the base model needs a library that the trainer image does not contain ({error}): "
            "use another base model, or an image that contains the library"
        ) from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            raise InvalidSpec(
                f"the weights of the base model do not match its config.json ({problem}: "
                f"{sorted(map(str, report[problem]))[0]}): choose another revision of the model"
            )
    return for_training(model)


def for_training(model: Any) -> Any:
    """Return a loaded base model with the settings that its training needs."""
    # With the key-value cache, packed rows attend to each other unless FlashAttention is used.
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16, an evaluation repacks the weights and breaks every later
            # backward pass (measured: loss 3.876 instead of 3.705 at step 30).
            module.support_avx512bf16_for_cpu = False
    return model


def _adapt(request: TrainRequest, model: Any) -> Any:
    """Return the base model with a new adapter."""
    return peft.get_peft_model(model, library_arguments.lora_config(request.recipe, model))


def _attention(request: TrainRequest, model: Any) -> str:
    return str(model.config._attn_implementation)


FACTORY = sft.ModelFactory(choose=_choose, load=_load, adapt=_adapt, attention=_attention)
