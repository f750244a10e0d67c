"""Estimate how much of the effect of tuning the served model has, from the scores of all tokens.

Rounding moves each score in its own direction, but an adapter at a wrong scale moves all scores
along the effect of tuning. The projection of the differences on that direction therefore reveals
faults that are much smaller than the rounding error of a single score:

    sensitivity  change of a log-probability per relative change of the tuning's effect on the
                 log-odds of its token
    error        sum(difference · sensitivity) / sum(sensitivity²), the least-squares estimate of
                 the effect that is missing (negative) or too much, as a share: -1 for the base

Pure. docs/concepts/verification.md derives the error that rounding can cause.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_verify.comparing.statistics import chance
from finetune_verify.scores import ScoredRow

STANDARD_ERRORS = 4.0
"""Deviation that is attributed to chance. One in 16,000 normally distributed values exceeds it."""
ROWS = 4
"""Rows from which their deviations tell how much chance contributes. With one or two rows, correct
servers were rejected in up to 8 % of simulations."""
NEGLIGIBLE = 0.02
"""Errors up to this one are never rejected."""
LARGEST = -1e-7
"""Upper bound of log-probabilities, below which float32 still resolves their log-odds."""


@dataclass(frozen=True, kw_only=True)
class EffectError:
    """Error of the effect of tuning, as a share of this effect.

    lowest, highest: the errors that are attributed to rounding. unit: rms change of the scores, in
    nats, for an error of 1. smallest_fault: a fault of this size would be detected, whether it adds
    to the error or reduces it; infinite if none would.
    """

    error: float
    lowest: float
    highest: float
    unit: float
    smallest_fault: float

    @property
    def allowed(self) -> bool:
        """Whether rounding explains the error."""
        return self.lowest <= self.error <= self.highest


def estimate(rows: Sequence[ScoredRow], *, roundoff: float, paths: int) -> EffectError:
    """Return the error of the effect of tuning.

    roundoff: unit roundoff of the server, relative to that of bfloat16. paths: as in
    ``comparison``.
    """
    direction = [_sensitivities(row.tuned, row.base) for row in rows]
    length = _sum_of_squares(direction)
    if not length:
        return EffectError(
            error=0.0, lowest=-math.inf, highest=math.inf, unit=0.0, smallest_fault=math.inf
        )
    error = math.fsum(_projections([row.differences for row in rows], direction)) / length
    bias, spread = _rounding([row.rounding for row in rows], direction, length)
    if len(rows) < ROWS:
        spread = math.inf
    # More rounding errors than those of the reference add up as a root sum of squares.
    factor = roundoff * math.sqrt(paths)
    lowest = min(-NEGLIGIBLE, factor * (min(bias, 0.0) - spread))
    highest = max(NEGLIGIBLE, factor * (max(bias, 0.0) + spread))
    # The recorded scores of the base may be rounded, which is a part of the direction.
    rounded = _sum_of_squares(_sensitivities(row.tuned, row.rounded) for row in rows)
    real = max(0.0, 1 - rounded / length)
    return EffectError(
        error=error,
        lowest=lowest,
        highest=highest,
        unit=math.sqrt(real * length / sum(map(len, direction))),
        smallest_fault=max(highest - error, error - lowest) / real if real else math.inf,
    )


def sensitivity(tuned: float, base: float) -> float:
    """Return the derivative of a log-probability: (1 - p) · (change of the log-odds)."""
    return -math.expm1(min(tuned, LARGEST)) * (_log_odds(tuned) - _log_odds(base))


def _rounding(
    rounding: Sequence[Sequence[float]], direction: Sequence[Sequence[float]], length: float
) -> tuple[float, float]:
    """Return the error that rounding to bfloat16 causes, and the largest deviation by chance.

    Rounding has a bias: weights in 16 bits lose some of the small changes of a merge.
    """
    # The rounding errors of a row may be related, so the rows are the independent values.
    parts = [part / length for part in _projections(rounding, direction)]
    bias, count = math.fsum(parts), len(parts)
    deviations = [part - bias / count for part in parts] if count > 1 else parts
    tokens = sum(map(len, rounding))
    standard_error = max(
        math.hypot(*deviations) * math.sqrt(count / max(1, count - 1)),
        # As if the errors within a row were independent.
        math.sqrt(_sum_of_squares(_products(rounding, direction))) / length,
        # As if every token had the same error, in case that those of the few most sensitive tokens
        # happen to be small.
        math.sqrt(_sum_of_squares(rounding) / tokens / length),
    )
    return bias, STANDARD_ERRORS * chance(deviations) * standard_error


def _sensitivities(tuned: Sequence[float], base: Sequence[float]) -> list[float]:
    return [sensitivity(*pair) for pair in zip(tuned, base, strict=True)]


def _log_odds(logarithm: float) -> float:
    bounded = min(logarithm, LARGEST)
    return bounded - math.log(-math.expm1(bounded))


def _sum_of_squares(rows: Iterable[Sequence[float]]) -> float:
    return math.fsum(value**2 for row in rows for value in row)


def _projections(
    values: Sequence[Sequence[float]], direction: Sequence[Sequence[float]]
) -> list[float]:
    return [math.fsum(products) for products in _products(values, direction)]


def _products(
    values: Sequence[Sequence[float]], direction: Sequence[Sequence[float]]
) -> list[list[float]]:
    return [
        [a * b for a, b in zip(*row, strict=True)] for row in zip(values, direction, strict=True)
    ]
