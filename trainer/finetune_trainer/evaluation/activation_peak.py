"""The largest magnitude of an activation, as float16 would have to represent it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

MAX_RECORDED = 2**31 - 1
"""Recorded instead of a larger number, or of one that is not finite."""


class ActivationPeak:
    """The largest magnitude among the activations that were observed."""

    def __init__(self, device: torch.device) -> None:
        """Start without observations."""
        self._peak = torch.zeros((), device=device)

    @property
    def value(self) -> int:
        """The peak, rounded up."""
        peak = float(self._peak)
        return min(math.ceil(peak), MAX_RECORDED) if math.isfinite(peak) else MAX_RECORDED

    def observe(self, activations: torch.Tensor, real: torch.Tensor) -> None:
        """Include activations. Shape (rows, tokens, …); ``real``: (rows, tokens), no padding."""
        by_token = activations.flatten(2)
        # On a CPU 25 times faster than the norm of infinite order; NaN stays NaN.
        largest = torch.maximum(by_token.amax(-1), -by_token.amin(-1))
        # The peak stays on the device: reading it would wait for the GPU.
        self._peak = torch.maximum(self._peak, largest.where(real, 0).max().float())

    @contextmanager
    def of_modules(self, layer: torch.nn.Module, real: torch.Tensor) -> Iterator[None]:
        """Include the inputs and outputs of all modules in a layer within the context.

        The parts of an adapted linear layer do not count: the merged layer has only their sum.
        """

        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for activation in (*inputs[:1], output):
                if isinstance(activation, torch.Tensor) and activation.shape[:2] == real.shape:
                    self.observe(activation, real)

        handles = [module.register_forward_hook(hook) for module in _of_merged(layer)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _of_merged(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for child in module.children():
        yield child
        if not isinstance(child, BaseTunerLayer):
            yield from _of_merged(child)
