"""Number formats and attention kernels of a device, and the check of a recipe against them."""

import importlib.util

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.cards import Card
from finetune_trainer.runtime.device import Device, require_capability


def check(recipe: Training, device: Device) -> None:
    """Raise InvalidSpec if this device cannot compute the recipe."""
    flash = flash_attention_usable(device)
    _check(recipe, device.name, bfloat16=device.has_bfloat16, flash=flash)


def check_ahead(recipe: Training, card: Card | None) -> None:
    """Raise InvalidSpec, during data preparation, if the card or this image cannot compute it.

    card: None if no node label names a known card; it is then assumed to be Ampere or later. Raise
    UnsupportedGpu if this image does not support the card at all.
    """
    if card is not None:
        require_capability(card.name, card.capability)
    ampere = card is None or card.is_ampere
    name = "the card" if card is None else card.name
    _check(recipe, name, bfloat16=ampere, flash=ampere and _flash_attention_installed())


def _check(recipe: Training, name: str, *, bfloat16: bool, flash: bool) -> None:
    advanced = recipe.advanced
    if advanced.quantization.compute_dtype == "bfloat16" and not bfloat16:
        raise InvalidSpec(
            f"{name} does not support bfloat16: set training.advanced.quantization.computeDtype to "
            "float16, or use spec.placement to select an Ampere or later card"
        )
    if advanced.attn_implementation == "flash_attention_2" and not flash:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is flash_attention_2, but {name} or this image "
            "does not support it: set it to auto or sdpa, or use an image with flash-attn"
        )


def attention(recipe: Training, device: Device) -> str:
    """Return the ``attn_implementation`` to request from transformers."""
    requested = recipe.advanced.attn_implementation
    if requested != "auto":
        return requested
    halves = recipe.advanced.quantization.compute_dtype != "float32"
    return "flash_attention_2" if halves and flash_attention_usable(device) else "sdpa"


def varlen_usable(recipe: Training, device: Device) -> bool:
    """Report whether PyTorch's own FlashAttention-2 for packed rows runs on this device.

    On CUDA it needs Ampere and 16 bits. On a CPU the trainer has its own kernels.
    """
    halves = recipe.advanced.quantization.compute_dtype != "float32"
    return not device.cuda or (halves and device.capability >= (8, 0))


def flash_attention_usable(device: Device) -> bool:
    """Report whether FlashAttention-2 is installed and runs on this device."""
    return device.capability >= (8, 0) and _flash_attention_installed()


def _flash_attention_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def uses_tf32(recipe: Training, device: Device) -> bool:
    """Report whether the recipe requests TensorFloat-32 and the device has it."""
    return recipe.advanced.tf32 and device.capability >= (8, 0)


def scales_loss(recipe: Training, device: Device) -> bool:
    """Report whether training uses float16 autocast with loss scaling, which CPUs do not have."""
    return device.cuda and recipe.advanced.quantization.compute_dtype == "float16"
