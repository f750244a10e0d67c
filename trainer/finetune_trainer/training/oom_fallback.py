"""After CUDA runs out of memory, train again with a smaller micro-batch or offloaded activations.

The rows, their order and the effective batch stay the same, so the loss curve is equal up to
rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_trainer.runtime.log import log

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Rows per forward pass, and whether activations are offloaded to RAM."""

    micro_batch: int
    offload: bool = False

    def __str__(self) -> str:
        where = ", activations in host memory" if self.offload else ""
        return f"micro-batch size {self.micro_batch}{where}"


@dataclass(frozen=True, kw_only=True)
class OomFallback:
    """The sequence of settings to try.

    micro_batch_fixed: the user set the micro-batch, so it is not changed.
    """

    effective_batch: int
    micro_batch_fixed: bool
    can_offload: bool

    def next_smaller(self, memory: MemorySettings) -> MemorySettings | None:
        """Return the settings to try next, or None if there are none.

        The micro-batch is at least halved; at micro-batch 1, or if it is fixed, activations are
        offloaded.
        """
        if memory.micro_batch > 1 and not self.micro_batch_fixed:
            half = next(
                size
                for size in range(memory.micro_batch // 2, 0, -1)
                if self.effective_batch % size == 0
            )
            return MemorySettings(micro_batch=half, offload=memory.offload)
        if self.can_offload and not memory.offload:
            return MemorySettings(micro_batch=memory.micro_batch, offload=True)
        return None

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
