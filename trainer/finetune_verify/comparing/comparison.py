"""Compare two lists of log-probabilities. Pure; docs/concepts/verification.md derives the formulas.

    distance   rms over the scored tokens of (served - reference), in nats
    tolerance  maximum effect of rounding: sqrt(paths) · chance · (u / u_bf16) · rounding

``rounding`` is the distance between this model computed in bfloat16 and in float32, on the same
tokens. It is proportional to the unit roundoff u, which scales it to other number formats.
``paths`` is the number of times that a server may round independently, relative to that
computation: two if adapter and weights are merged, four if the adapter is a separate path.
``chance`` covers sampling: both sides are samples with the standard error of their own fourth
moment; the tolerance allows three of them.

The distance detects every large fault. ``tuning_effect`` detects an adapter at a slightly wrong
scale, which may be hidden in the rounding error of each single score.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_verify.comparing import tuning_effect
from finetune_verify.comparing.statistics import chance, rms
from finetune_verify.scores import ScoredRow

Outcome = Literal["Verified", "Inconclusive", "Mismatch"]

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ROUNDED_IN = "bfloat16"
CLEAR = 0.1
"""The scores verify a model if a fault of this size would be detected, as a share of the effect."""

RESOLUTION = 1e-6
"""Distance that is never rejected: the step of float32, in which servers compute log-probabilities,
between -8 and -16. With weights in float32 too, the tolerance of a small model can be below it."""

MERGED, APART = 2, 4
"""Number of times that a server may round, relative to the reference's computation."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of a comparison. Distances are in nats, rms over ``tokens``."""

    outcome: Outcome
    distance: float
    tolerance: float
    effect: float
    """Distance between the tuned model and its base."""
    tokens: int
    effect_error: tuning_effect.EffectError | None = None
    """None if the distance exceeds the tolerance."""
    smallest_fault: float | None = None
    """Smallest share of the effect whose absence would be detected. None if the base model, which
    has no effect, would not be detected."""


def compare(rows: Sequence[ScoredRow], *, dtypes: Sequence[str], paths: int) -> Comparison:
    """Compare served log-probabilities with the reference.

    dtypes: number formats of the weights and of the server's arithmetic. paths: ``MERGED`` or
    ``APART``.
    """
    differences = _all(row.differences for row in rows)
    distance, tokens = rms(differences), len(differences)
    effect = rms(_all(row.effect for row in rows))
    allowed = max(RESOLUTION, tolerance(_all(row.rounding for row in rows), dtypes, paths))
    # Not "distance > allowed": a NaN must not pass.
    if not distance <= allowed:
        return Comparison(
            outcome="Mismatch", distance=distance, tolerance=allowed, effect=effect, tokens=tokens
        )
    error = tuning_effect.estimate(rows, roundoff=roundoff(dtypes), paths=paths)
    smallest = error.smallest_fault
    if error.unit:
        # A fault that is larger than tolerance and rounding error together exceeds the tolerance.
        smallest = min(smallest, (allowed + distance) / error.unit)
    outcome: Outcome = "Verified" if smallest <= CLEAR else "Inconclusive"
    return Comparison(
        outcome=outcome if error.allowed else "Mismatch",
        distance=distance,
        tolerance=allowed,
        effect=effect,
        tokens=tokens,
        effect_error=error,
        smallest_fault=smallest if smallest <= 1 else None,
    )


def tolerance(rounding: Sequence[float], dtypes: Sequence[str], paths: int) -> float:
    """Return the largest distance that rounding explains, in nats."""
    return math.sqrt(paths) * chance(rounding) * roundoff(dtypes) * rms(rounding)


def roundoff(dtypes: Sequence[str]) -> float:
    """Return the unit roundoff of the coarsest number format, relative to that of bfloat16."""
    coarsest = max(UNIT_ROUNDOFF[dtype] for dtype in dtypes) + UNIT_ROUNDOFF["float32"]
    return coarsest / UNIT_ROUNDOFF[ROUNDED_IN]


def _all(rows: Iterable[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]
