"""Largest rounding error of a few tokens, bounded by the most sensitive tokens of the reference.

A rounding error of the logits changes a log-probability in proportion to 1 - p, and the errors of
the logits differ between tokens by more than an order of magnitude. Among 16 tokens, one or two of
them decide the root mean square, so the recorded errors of these tokens say little about another
computation. The largest errors of all recorded tokens, divided by 1 - p, bound them instead. Pure.
"""

import math
from collections.abc import Sequence

from finetune_verify.comparing.comparison import roundoff
from finetune_verify.comparing.statistics import chance, rms
from finetune_verify.scores import ScoredRow

RECORDED = 128
"""Recorded tokens from which the largest errors are those of sensitive tokens. Of fewer, they are
an ordinary sample: correct servers were rejected in up to 7 % of simulations with 16 tokens."""


def tolerance(
    uncertainties: Sequence[float],
    rows: Sequence[ScoredRow],
    *,
    dtypes: Sequence[str],
    paths: int,
) -> float | None:
    """Return the largest distance that rounding explains, in nats; None if too little is recorded.

    uncertainties: 1 - p of the compared tokens. paths: number of times that either computation may
    round, relative to that of the reference.
    """
    errors = sorted(
        abs(rounded - tuned) / uncertainty(rounded, tuned)
        for row in rows
        for rounded, tuned in zip(row.rounded, row.tuned, strict=True)
    )
    if len(errors) < RECORDED:
        return None
    allowed = chance([error for row in rows for error in row.rounding])
    allowed *= rms(errors[-len(uncertainties) :])
    return math.sqrt(paths) * roundoff(dtypes) * allowed * rms(uncertainties)


def uncertainty(*logarithms: float) -> float:
    """Return 1 - p of the less likely one of log-probabilities."""
    return max(1e-7, -math.expm1(min(0.0, *logarithms)))
