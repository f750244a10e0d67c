"""Number formats of a device, and the check of a recipe against device or card."""

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime import attention
from finetune_trainer.runtime.attention import AMPERE
from finetune_trainer.runtime.cards import Card
from finetune_trainer.runtime.device import Device, require_capability


def check(recipe: Training, device: Device) -> None:
    """Raise InvalidSpec if this device cannot compute the recipe."""
    _check(recipe, device.name, ampere=device.capability >= AMPERE or not device.cuda)


def check_ahead(recipe: Training, card: Card | None) -> None:
    """Raise InvalidSpec, during data preparation, if the card or this image cannot compute it.

    card: None if no node label names a known card; it is then assumed to be Ampere or later. Raise
    UnsupportedGpu if this image does not support the card at all.
    """
    if card is not None:
        require_capability(card.name, card.capability)
    name = "the card" if card is None else card.name
    _check(recipe, name, ampere=card is None or card.is_ampere)


def check_attention(recipe: Training, config: Mapping[str, Any], card: Card | None) -> None:
    """Raise InvalidSpec if the recipe sets an attention kernel that cannot compute the base.

    config: config.json of the base. card: as in ``check_ahead``.
    """
    capability = AMPERE if card is None else card.capability
    attention.check(recipe, capability=capability, capped=attention.is_capped(config))


def _check(recipe: Training, name: str, *, ampere: bool) -> None:
    advanced = recipe.advanced
    if ampere:
        return
    if advanced.quantization.compute_dtype == "bfloat16":
        raise InvalidSpec(
            f"{name} does not support bfloat16: set training.advanced.quantization.computeDtype to "
            "float16, or use spec.placement to select an Ampere or later card"
        )
    if advanced.attn_implementation == attention.FLASH:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is flash_attention_2, which {name} does not "
            "support: set it to auto or sdpa, or use spec.placement to select an Ampere or later "
            "card"
        )


def uses_tf32(recipe: Training, device: Device) -> bool:
    """Report whether the recipe requests TensorFloat-32 and the device has it."""
    return recipe.advanced.tf32 and device.capability >= AMPERE


def scales_loss(recipe: Training, device: Device) -> bool:
    """Report whether training uses float16 autocast with loss scaling, which CPUs do not have."""
    return device.cuda and recipe.advanced.quantization.compute_dtype == "float16"
