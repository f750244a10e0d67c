"""Served and recorded log-probabilities of a row of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """Log-probabilities of the compared tokens of one row.

    rounded: of the tuned model, computed in bfloat16.
    """

    served: Sequence[float]
    tuned: Sequence[float]
    base: Sequence[float]
    rounded: Sequence[float]

    @property
    def differences(self) -> list[float]:
        """Served minus recorded."""
        return _minus(self.served, self.tuned)

    @property
    def rounding(self) -> list[float]:
        """Errors of the computation in bfloat16."""
        return _minus(self.rounded, self.tuned)

    @property
    def effect(self) -> list[float]:
        """Changes by the tuning."""
        return _minus(self.tuned, self.base)


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]
