"""What the recipe becomes on the card, or the CPU, that is here."""

import importlib.util
import os
from dataclasses import dataclass

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec, Transient
from finetune_trainer.runtime.cards import Card


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that trains. ``capability`` is CUDA's, (0, 0) on a CPU."""

    name: str
    cuda: bool
    capability: tuple[int, int] = (0, 0)

    @property
    def has_bfloat16(self) -> bool:
        """Whether bfloat16 is native: Ampere and later, and every CPU (slowly on old ones)."""
        return not self.cuda or self.capability >= (8, 0)


def detect() -> Device:
    """Look for a card. A pod that was given one but cannot use it must not train on its CPU."""
    import torch

    if torch.cuda.is_available():
        return Device(
            name=torch.cuda.get_device_name(),
            cuda=True,
            capability=torch.cuda.get_device_capability(),
        )
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if given not in ("", "none", "void"):
        raise Transient(
            f"the container was given the GPU {given}, but CUDA cannot use it: check the node's "
            "driver (nvidia-smi), which must support CUDA " + str(torch.version.cuda)
        )
    return Device(name="cpu", cuda=False)


NO_FALLBACK = "UNSLOTH_DISABLE_CPU_FALLBACK"
"""Set to 1 by the operator in pods that asked for a GPU: Unsloth trains on it or not at all."""


def refuse_fallback() -> None:
    """Raise Transient where Unsloth would fall back to the CPU and must not."""
    if os.environ.get(NO_FALLBACK) == "1" and not detect().cuda:
        raise Transient(
            "training.advanced.backend is unsloth, which trains on a GPU here, but CUDA finds "
            "none: check the node's driver (nvidia-smi) and device plugin, or set the backend to "
            "trl to train on the CPU"
        )


def check(recipe: Training, device: Device) -> None:
    """Refuse a recipe that this device cannot compute."""
    flash = flash_attention_usable(device)
    _refuse(recipe, device.name, bfloat16=device.has_bfloat16, flash=flash)


def check_ahead(recipe: Training, card: Card | None) -> None:
    """Refuse, in staging, what this image or the card that will train cannot compute.

    card: None for one that no label names.
    """
    ampere = card is None or card.is_ampere
    name = "the card" if card is None else card.name
    _refuse(recipe, name, bfloat16=ampere, flash=ampere and _flash_attention_installed())


def _refuse(recipe: Training, name: str, *, bfloat16: bool, flash: bool) -> None:
    advanced = recipe.advanced
    if advanced.quantization.compute_dtype == "bfloat16" and not bfloat16:
        raise InvalidSpec(
            f"{name} has no bfloat16: set training.advanced.quantization.computeDtype to float16, "
            "or place the job on an Ampere or later card"
        )
    if advanced.attn_implementation == "flash_attention_2" and not flash:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is flash_attention_2, but {name} or this image "
            "does not have it: set it to auto or sdpa, or use an image that has flash-attn"
        )


def attention(recipe: Training, device: Device) -> str:
    """Return the attention kernel to ask the libraries for."""
    wanted = recipe.advanced.attn_implementation
    if wanted != "auto":
        return wanted
    halves = recipe.advanced.quantization.compute_dtype != "float32"
    return "flash_attention_2" if halves and flash_attention_usable(device) else "sdpa"


def flash_attention_usable(device: Device) -> bool:
    """Tell whether FlashAttention-2 is installed and runs on this card."""
    return device.capability >= (8, 0) and _flash_attention_installed()


def _flash_attention_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def uses_tf32(recipe: Training, device: Device) -> bool:
    """Tell whether TensorFloat-32 is asked for and there."""
    return recipe.advanced.tf32 and device.capability >= (8, 0)


def trains_half(recipe: Training, device: Device) -> bool:
    """Tell whether float16 autocast with loss scaling is used; CPUs have no loss scaling."""
    return device.cuda and recipe.advanced.quantization.compute_dtype == "float16"


def memory_peak() -> int | None:
    """Return the most GPU memory that was allocated at once, in bytes; None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
