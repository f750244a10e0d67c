"""Chooses the attention kernel of backend ``trl``, for a GPU or for a card that is planned.

FlashAttention-2 comes from the package ``flash-attn`` where an image contains it, and from PyTorch
otherwise (``varlen``). Neither builds an attention mask, unlike the other kernels.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec

FLASH, SDPA = "flash_attention_2", "sdpa"
VARLEN = "varlen"
"""PyTorch's own FlashAttention-2, which receives the borders of the rows."""
WITHOUT_MASK = frozenset({FLASH, VARLEN})
AMPERE = (8, 0)
"""Compute capability from which FlashAttention-2 runs."""
LARGEST_HEAD = 256
"""Largest head size that FlashAttention-2 supports."""


def choose(
    recipe: Training,
    *,
    packed: bool,
    capability: tuple[int, int] | None,
    capped: bool,
) -> str:
    """Return the name of a kernel in transformers' registry.

    capability: the compute capability of the GPU, None for a CPU. capped: see ``is_capped``.
    """
    wanted = recipe.advanced.attn_implementation
    if wanted not in ("auto", FLASH):
        return wanted
    if uses_package(recipe, capability):
        return FLASH
    if capped or (capability is not None and not _runs(recipe, capability)):
        return SDPA
    # The trainer's CPU kernel saves the mask, not time: rows without packing do not need it.
    if capability is None and wanted == "auto" and not packed:
        return SDPA
    return VARLEN


def check(recipe: Training, *, capability: tuple[int, int] | None, capped: bool) -> None:
    """Raise InvalidSpec if the recipe sets FlashAttention-2 and the base cannot use it."""
    if recipe.advanced.attn_implementation != FLASH:
        return
    if choose(recipe, packed=True, capability=capability, capped=capped) == SDPA:
        raise InvalidSpec(
            f"training.advanced.attnImplementation is {FLASH}, but config.json of the base sets "
            "soft-capping or dropout of the attention. PyTorch's FlashAttention-2 in this image "
            "does not support them: set attnImplementation to auto or sdpa, or use an image with "
            "flash-attn"
        )


def is_capped(config: Mapping[str, Any]) -> bool:
    """Report whether a config.json sets soft-capping or dropout of the attention.

    PyTorch's FlashAttention-2 for rows of different lengths supports neither.
    """
    return bool(config.get("attn_logit_softcapping") or config.get("attention_dropout"))


def uses_package(recipe: Training, capability: tuple[int, int] | None) -> bool:
    """Report whether the package ``flash-attn`` is installed and computes this recipe."""
    installed = importlib.util.find_spec("flash_attn") is not None
    return installed and capability is not None and _runs(recipe, capability)


def _runs(recipe: Training, capability: tuple[int, int]) -> bool:
    """Report whether FlashAttention-2 runs on a GPU: it computes in 16 bits."""
    return capability >= AMPERE and recipe.advanced.quantization.compute_dtype != "float32"
