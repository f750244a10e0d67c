"""Recipes whose backend is known, as the estimate needs them."""

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.compatibility.backend_choice import AUTO, UNSLOTH, with_backend

BOTH = ("trl", "unsloth")


def on_a_backend(recipe: Training) -> Training:
    """Return the recipe on Unsloth, unless it sets a backend."""
    return with_backend(recipe, UNSLOTH) if recipe.advanced.backend == AUTO else recipe
