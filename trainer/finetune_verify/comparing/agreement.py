"""Two computations of the log-probabilities of the same tokens, compared. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_verify.comparing.statistics import rms


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """distance: root mean square difference. tolerance: what rounding explains. Both in nats."""

    distance: float
    tolerance: float
    tokens: int

    @property
    def is_within_tolerance(self) -> bool:
        """Whether rounding explains the difference."""
        # Not "distance > tolerance": a NaN must not pass.
        return self.distance <= self.tolerance

    def __str__(self) -> str:
        """Return the numbers."""
        return f"distance {self.distance:.4g} nats, tolerance {self.tolerance:.4g} nats"


def distance(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the root mean square difference of two computations, in nats."""
    return rms([first - second for first, second in pairs])
