"""After CUDA runs out of memory, train again with less memory.

Activations are recomputed first, then the micro-batch is halved, then activations are offloaded.

The rows, their order and the effective batch stay the same, so the loss curve is equal up to
rounding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.checkpointing.checkpoints import Checkpoint
from finetune_trainer.runtime.log import log

DEFAULT_MICRO_BATCH = 2
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Rows per forward pass, and whether activations are offloaded to RAM.

    recompute: whether gradient checkpointing is on although the recipe says otherwise.
    """

    micro_batch: int
    offload: bool = False
    recompute: bool = False

    @classmethod
    def initial(
        cls, recipe: Training, checkpoint: Checkpoint | None, estimate: Mapping[str, Any] | None
    ) -> Self:
        """Return the settings of the last checkpoint, because larger ones did not fit."""
        if checkpoint is not None:
            facts = checkpoint.facts
            return cls(
                micro_batch=facts["microBatch"],
                offload=facts["offload"],
                recompute=facts.get("recompute", False),
            )
        estimated = (estimate or {}).get("microBatch")
        # Without an estimate the model family is unknown, and a small micro-batch is safe.
        cautious = math.gcd(DEFAULT_MICRO_BATCH, recipe.effective_batch_size)
        return cls(micro_batch=recipe.advanced.micro_batch_size or estimated or cautious)

    def __str__(self) -> str:
        how = ", gradient checkpointing" if self.recompute else ""
        where = ", activations in host memory" if self.offload else ""
        return f"micro-batch size {self.micro_batch}{how}{where}"


@dataclass(frozen=True, kw_only=True)
class OomFallback:
    """The sequence of settings to try.

    micro_batch_fixed: the user set the micro-batch, so it is not changed. can_recompute: gradient
    checkpointing is off because of the estimate, not because the user set it.
    """

    effective_batch: int
    micro_batch_fixed: bool
    can_offload: bool
    can_recompute: bool = False

    def next_smaller(self, memory: MemorySettings) -> MemorySettings | None:
        """Return the settings to try next, or None if there are none.

        Gradient checkpointing costs least. Then the micro-batch is at least halved; at micro-batch
        1, or if it is fixed, activations are offloaded.
        """
        if self.can_recompute and not memory.recompute:
            return replace(memory, recompute=True)
        if memory.micro_batch > 1 and not self.micro_batch_fixed:
            half = next(
                size
                for size in range(memory.micro_batch // 2, 0, -1)
                if self.effective_batch % size == 0
            )
            return replace(memory, micro_batch=half)
        if self.can_offload and not memory.offload:
            return replace(memory, offload=True)
        return None

    def advice(self, memory: MemorySettings) -> str:
        """Return what the user can change if not even ``memory`` is enough."""
        if self.micro_batch_fixed and memory.micro_batch > 1:
            return "lower training.advanced.microBatchSize, or omit it"
        return "use a card with more memory, or lower training.sequenceLength"

    def run(
        self,
        attempt: Callable[[MemorySettings], T],
        start: MemorySettings,
        *,
        too_large: type[Exception],
    ) -> T:
        """Call ``attempt`` with ``start``, then with smaller settings after each ``too_large``.

        The last ``too_large`` propagates.
        """
        memory = start
        while True:
            try:
                return attempt(memory)
            except too_large:
                smaller = self.next_smaller(memory)
                if smaller is None:
                    raise
            log(f"CUDA ran out of memory with {memory}; retrying with {smaller}")
            memory = smaller
