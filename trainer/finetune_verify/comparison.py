"""Compare two lists of log-probabilities. Pure; docs/concepts/verification.md derives the formulas.

    distance   rms over the scored tokens of (served - reference), in nats
    tolerance  maximum effect of rounding: sqrt(paths) · chance · (u / u_bf16) · rounding

``rounding`` is the distance between this model computed in bfloat16 and in float32, on the same
tokens. It is proportional to the unit roundoff u, which scales it to other number formats.
``paths`` is the number of times that a server may round independently, relative to that
computation: two if adapter and weights are merged, four if the adapter is a separate path.
``chance`` covers sampling: both sides are samples with the standard error of their own fourth
moment; the tolerance allows three of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ROUNDED_IN = "bfloat16"
CLEAR = 8.0
"""Distance between tuned model and base, in tolerances, from which the scores distinguish them."""

STANDARD_ERRORS = 3.0
MERGED, APART = 2, 4
"""Number of times that a server may round, relative to the reference's computation."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of a comparison. Distances are in nats, rms over ``tokens``."""

    outcome: Literal["Verified", "Inconclusive", "Mismatch"]
    distance: float
    tolerance: float
    effect: float
    """Distance between the tuned model and its base."""
    tokens: int


def compare(
    *,
    served: Sequence[float],
    tuned: Sequence[float],
    base: Sequence[float],
    rounding: Sequence[float],
    dtypes: Sequence[str],
    paths: int,
) -> Comparison:
    """Compare served log-probabilities with the reference.

    served, tuned, base: log-probabilities of the same tokens. rounding: differences between the
    tuned model in bfloat16 and in float32. dtypes: number formats of the weights and of the
    server's arithmetic. paths: ``MERGED`` or ``APART``.
    """
    distance = rms([a - b for a, b in zip(served, tuned, strict=True)])
    effect = rms([a - b for a, b in zip(tuned, base, strict=True)])
    allowed = tolerance(rounding, dtypes, paths)
    # Not "distance > allowed": a NaN must not pass.
    if not distance <= allowed:
        outcome: Literal["Verified", "Inconclusive", "Mismatch"] = "Mismatch"
    else:
        outcome = "Verified" if effect >= CLEAR * allowed else "Inconclusive"
    return Comparison(
        outcome=outcome, distance=distance, tolerance=allowed, effect=effect, tokens=len(served)
    )


def tolerance(rounding: Sequence[float], dtypes: Sequence[str], paths: int) -> float:
    """Return the largest distance that rounding explains, in nats."""
    coarsest = max(UNIT_ROUNDOFF[dtype] for dtype in dtypes) + UNIT_ROUNDOFF["float32"]
    chance = 1 + STANDARD_ERRORS * math.sqrt(2) * relative_error(rounding)
    return math.sqrt(paths) * chance * coarsest / UNIT_ROUNDOFF[ROUNDED_IN] * rms(rounding)


def rms(values: Sequence[float]) -> float:
    """Return the root mean square; 0 for no values."""
    return math.sqrt(_moment(values, 2))


def relative_error(values: Sequence[float]) -> float:
    """Return the relative standard error of ``rms(values)``, from their own fourth moment.

    By the delta method: var(rms) / rms² = (m4 / m2² - 1) / 4n.
    """
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 0.0
    # In units of the largest, so that no power of a tiny value vanishes.
    scaled = [value / largest for value in values]
    kurtosis = _moment(scaled, 4) / _moment(scaled, 2) ** 2
    return math.sqrt(max(0.0, kurtosis - 1) / (4 * len(values)))


def _moment(values: Sequence[float], order: int) -> float:
    return math.fsum(value**order for value in values) / len(values) if values else 0.0
