"""What is tried when a training runs out of the card's memory: the same training in smaller bites.

Each rung takes less memory than the one above it and trains the same rows in the same order with
the same effective batch, so the curve of the loss stays the same up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_trainer.runtime.progress import log

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Rows in one forward pass, and whether activations wait for the backward pass in RAM."""

    micro_batch: int
    offload: bool = False

    def __str__(self) -> str:
        return f"micro-batch {self.micro_batch}{', activations offloaded' * self.offload}"


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Which rungs there are. ``written``: the user wrote the micro-batch, so it is kept."""

    effective_batch: int
    written: bool
    can_offload: bool

    def below(self, rung: Rung) -> Rung | None:
        """Return the next smaller rung: at most half the micro-batch, then offloading."""
        if rung.micro_batch > 1 and not self.written:
            half = next(
                size
                for size in range(rung.micro_batch // 2, 0, -1)
                if self.effective_batch % size == 0
            )
            return Rung(micro_batch=half, offload=rung.offload)
        if self.can_offload and not rung.offload:
            return Rung(micro_batch=rung.micro_batch, offload=True)
        return None

    def climb_down(
        self, attempt: Callable[[Rung], T], start: Rung, *, too_large: type[Exception]
    ) -> T:
        """Call ``attempt`` on ``start`` and, after each ``too_large``, on the next smaller rung.

        The last ``too_large`` goes on to the caller.
        """
        rung = start
        while True:
            try:
                return attempt(rung)
            except too_large:
                smaller = self.below(rung)
                if smaller is None:
                    raise
            log(f"CUDA ran out of memory at {rung}; trying {smaller}")
            rung = smaller
