"""Where Liger's Triton kernels can compute the loss and the layers: families and devices.

The fused loss holds the logits of a chunk of tokens at a time. The layers are RMSNorm, rotary
embedding, SwiGLU and GeGLU. Their kernels call the projections as modules, so that the adapters in
these are trained.
"""

import os
from typing import Any

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.errors import InvalidSpec

LOSS = "training.advanced.ligerFusedLinearCrossEntropy"
LAYERS = "training.advanced.ligerLayers"
FAMILIES = frozenset(
    {"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"}
)
"""Values of ``model_type`` with which the tests compare these kernels with TRL and transformers.
Gemma 2 is not among them because Triton's interpreter fails on its soft-capped logits. Liger leaves
families that it does not know unchanged, without an error."""


def kernels(recipe: Training) -> dict[str, bool]:
    """Return the arguments of Liger that select the kernels of a recipe; empty without any."""
    advanced = recipe.advanced
    layers = advanced.liger_layers is True
    if not layers and not advanced.liger_fused_linear_cross_entropy:
        return {}
    return {
        "fused_linear_cross_entropy": advanced.liger_fused_linear_cross_entropy,
        "cross_entropy": False,
        **dict.fromkeys(("rope", "rms_norm", "swiglu", "geglu"), layers),
    }


def check_family(recipe: Training, family: str) -> None:
    """Raise InvalidSpec if the recipe sets a kernel of Liger for a family without it."""
    if kernels(recipe) and family not in FAMILIES:
        raise InvalidSpec(
            f"{_field(recipe)} is true, but the base model is of family {family}. Liger's kernels "
            f"are tested only with {', '.join(sorted(FAMILIES))}: set the field to false"
        )


def check_device(recipe: Training, *, cuda: bool) -> None:
    """Raise InvalidSpec if the recipe sets a kernel of Liger and nothing can run Triton's kernels.

    Without a GPU, Triton's interpreter runs them; it is for tests, and slow.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if kernels(recipe) and not cuda and not interpreted:
        raise InvalidSpec(
            f"{_field(recipe)} is true, but Liger's kernel needs a GPU: set the field to false"
        )


def apply(recipe: Training, model: Any) -> None:
    """Replace the loss and the layers of a model by those that the recipe sets."""
    if selected := kernels(recipe):
        # Trainer.train() does the same for the loss, but a resumed run may evaluate before it.
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, selected)


def _field(recipe: Training) -> str:
    """Return the fields that are true."""
    advanced = recipe.advanced
    written = {LOSS: advanced.liger_fused_linear_cross_entropy, LAYERS: advanced.liger_layers}
    return " and ".join(field for field, value in written.items() if value)
