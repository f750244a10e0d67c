"""Replace a paged optimizer on a GPU without managed memory, in which it keeps its states.

bitsandbytes ends the process with exit code 1, and without a message, if it cannot allocate managed
memory. The optimizer of the same name that is not paged computes the same steps, and keeps its
states (about 85 MB for the adapter of an 8B model in 8 bits) in the memory of the GPU.
"""

from collections.abc import Callable

from finetune_api.v1alpha1.training.advanced import Optimizer
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices import managed_memory
from finetune_trainer.devices.capabilities import Device
from finetune_trainer.errors import InvalidSpec

PAGED = "paged_"
UNPAGED: dict[str, Optimizer] = {
    "paged_adamw_8bit": "adamw_8bit",
    "paged_lion_8bit": "lion_8bit",
    "paged_lion_32bit": "lion_32bit",
    "paged_ademamix_8bit": "ademamix_8bit",
    "paged_ademamix_32bit": "ademamix",
}
"""transformers has no name for bitsandbytes' AdamW in 32 bits that is not paged."""


def fitting(
    recipe: Training, device: Device, *, probe: Callable[[], str | None] = managed_memory.problem
) -> tuple[Training, tuple[str, ...]]:
    """Return the recipe with an optimizer that the device can run, and warnings.

    Raise InvalidSpec if there is none. probe: returns why the GPU has no managed memory, or None.
    """
    name = recipe.advanced.optimizer
    if not device.cuda or not name.startswith(PAGED):
        return recipe, ()
    problem = probe()
    if problem is None:
        return recipe, ()
    missing = f"{device.name} has no managed memory for the states of {name} ({problem})"
    unpaged = UNPAGED.get(name)
    if unpaged is None:
        raise InvalidSpec(
            f"{missing}: set training.advanced.optimizer to adamw_8bit or adamw_torch, or use "
            "spec.placement to select another GPU"
        )
    advanced = recipe.advanced.model_copy(update={"optimizer": unpaged})
    warning = f"{missing}, so training uses {unpaged}, which keeps its states in GPU memory"
    return recipe.model_copy(update={"advanced": advanced}), (warning,)
