"""LoRA+: a higher learning rate for the B matrices of an adapter (Hayou et al., 2024).

PEFT has an optimizer of this name, but it drops the weight decay of the recipe and has a rate of
its own for embeddings. Here the optimizer of the recipe keeps all other settings.
"""

from collections.abc import Iterable

import torch

B_MATRIX = ".lora_B."
"""Part of the names of B matrices in PEFT's models."""


def set_rates(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    ratio: float,
) -> None:
    """Move the B matrices to groups of their own, with ``ratio`` times the learning rate.

    optimizer: it has not taken a step and has no scheduler. Its first groups keep all other
    weights, so that the learning rate of the first group is still that of the recipe.
    """
    of_b = {id(parameter) for name, parameter in parameters if B_MATRIX in name}
    for group in list(optimizer.param_groups):
        moved = [tensor for tensor in group["params"] if id(tensor) in of_b]
        if moved:
            group["params"] = [tensor for tensor in group["params"] if id(tensor) not in of_b]
            optimizer.add_param_group({**group, "params": moved, "lr": ratio * group["lr"]})
