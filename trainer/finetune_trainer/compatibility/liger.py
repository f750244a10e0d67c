"""Where Liger's fused linear cross entropy can compute the loss: families and devices.

Only the loss is Liger's. Its other kernels replace modules of transformers that an adapter needs.
"""

import os

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import InvalidSpec

FIELD = "training.advanced.ligerFusedLinearCrossEntropy"
FAMILIES = frozenset(
    {"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"}
)
"""Values of ``model_type`` with which the tests compare this loss with that of TRL. Gemma 2 is not
among them because Triton's interpreter fails on its soft-capped logits. Liger leaves families that
it does not know unchanged, without an error."""
KERNELS = {
    "fused_linear_cross_entropy": True,
    "cross_entropy": False,
    "rope": False,
    "rms_norm": False,
    "swiglu": False,
    "geglu": False,
}
"""Arguments of Liger that replace the loss only."""


def check_family(recipe: Training, family: str) -> None:
    """Raise InvalidSpec if the recipe sets Liger's loss for a family without it."""
    if recipe.advanced.liger_fused_linear_cross_entropy and family not in FAMILIES:
        raise InvalidSpec(
            f"{FIELD} is true, but the base model is of family {family}. Liger's loss is tested "
            f"only with {', '.join(sorted(FAMILIES))}: set the field to false"
        )


def check_device(recipe: Training, *, cuda: bool) -> None:
    """Raise InvalidSpec if the recipe sets Liger's loss and nothing can run Triton's kernels.

    Without a GPU, Triton's interpreter runs them; it is for tests, and slow.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if recipe.advanced.liger_fused_linear_cross_entropy and not cuda and not interpreted:
        raise InvalidSpec(
            f"{FIELD} is true, but Liger's kernel needs a GPU: set the field to false"
        )
