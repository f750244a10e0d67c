"""Chooses the attention kernel of backend ``trl``, for a GPU or for a card that is planned.

FlashAttention-2 comes from the package ``flash-attn`` where an image contains it, and from PyTorch
otherwise (``varlen``). Neither builds an attention mask, unlike the other kernels. Which kernels
compute a model correctly is measured for each family (``families``).
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices.cards import AMPERE, Card
from finetune_trainer.errors import InvalidSpec

FLASH, SDPA, EAGER = "flash_attention_2", "sdpa", "eager"
VARLEN = "varlen"
"""PyTorch's own FlashAttention-2, which receives the borders of the rows."""
WITHOUT_MASK = frozenset({FLASH, VARLEN})
LARGEST_HEAD = 256
"""Largest head size that FlashAttention-2 supports."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """The kernels that compute a model correctly.

    padded, packed: VARLEN, SDPA and EAGER, for rows without and with packing. VARLEN stands for the
    package ``flash-attn``, too. capped: whether attention has soft-capping or dropout, which only
    that package supports. reason: why kernels are missing, as the end of a sentence; empty if none
    is. unknown: whether the model was not measured.
    """

    padded: tuple[str, ...] = (VARLEN, SDPA, EAGER)
    packed: tuple[str, ...] = (VARLEN, SDPA, EAGER)
    capped: bool = False
    reason: str = ""
    unknown: bool = False


ALL = Support()
"""All kernels."""


def choose(
    recipe: Training,
    *,
    packed: bool,
    capability: tuple[int, int] | None,
    support: Support,
) -> str:
    """Return the name of a kernel in transformers' registry.

    capability: the compute capability of the GPU, None for a CPU.
    """
    wanted = recipe.advanced.attn_implementation
    if wanted not in ("auto", FLASH):
        return wanted
    usable = support.packed if packed else support.padded
    if VARLEN in usable and uses_package(recipe, capability):
        return FLASH
    if VARLEN in usable and not support.capped and _runs(recipe, capability):
        return VARLEN
    return EAGER if EAGER in usable and SDPA not in usable else SDPA


def packs(recipe: Training, *, capability: tuple[int, int] | None, support: Support) -> bool:
    """Report whether the kernel for packed rows keeps the rows apart."""
    chosen = choose(recipe, packed=True, capability=capability, support=support)
    return (VARLEN if chosen == FLASH else chosen) in support.packed


def check(recipe: Training, *, capability: tuple[int, int] | None, support: Support) -> None:
    """Raise InvalidSpec if the recipe sets a kernel or packing that the base does not support."""
    wanted = recipe.advanced.attn_implementation
    chosen = choose(recipe, packed=False, capability=capability, support=support)
    if wanted == FLASH and chosen not in WITHOUT_MASK and support.capped:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is {FLASH}, but config.json of the base sets "
            "soft-capping or dropout of the attention. PyTorch's FlashAttention-2 in this image "
            "does not support them: set attnImplementation to auto or sdpa, or use an image with "
            "flash-attn"
        )
    if wanted != "auto" and (VARLEN if wanted == FLASH else wanted) not in support.padded:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is {wanted}, which cannot train the base: "
            f"{support.reason}. Set attnImplementation to auto"
        )
    if recipe.packing == "always" and not packs(recipe, capability=capability, support=support):
        reason = support.reason or f"the rows would see each other with the kernel {wanted}"
        raise InvalidSpec(
            f"training.packing is always, but rows cannot be packed for the base: {reason}. Set "
            "packing to auto or never"
        )


def check_cards(recipe: Training, cards: Iterable[Card], support: Support) -> None:
    """Raise InvalidSpec if the recipe sets what a base or one of the cards does not support."""
    for capability in capabilities(cards):
        check(recipe, capability=capability, support=support)


def capabilities(cards: Iterable[Card]) -> list[tuple[int, int]]:
    """Return the compute capabilities of cards; that of Ampere if none is known."""
    return [card.capability for card in cards] or [AMPERE]


def uses_package(recipe: Training, capability: tuple[int, int] | None) -> bool:
    """Report whether the package ``flash-attn`` is installed and computes this recipe."""
    installed = importlib.util.find_spec("flash_attn") is not None
    return installed and _runs(recipe, capability)


def _runs(recipe: Training, capability: tuple[int, int] | None) -> bool:
    """Report whether FlashAttention-2 runs on a device: it computes in 16 bits."""
    if capability is None or capability < AMPERE:
        return False
    return recipe.advanced.quantization.compute_dtype != "float32"
