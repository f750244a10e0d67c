"""Correct servers are not rejected because of a few tokens or rows that rounding changes much."""

import math
import random
from collections.abc import Callable

import pytest

from finetune_verify.comparing import few_tokens, tuning_effect
from finetune_verify.comparing.comparison import MERGED, tolerance
from finetune_verify.comparing.few_tokens import RECORDED, uncertainty
from finetune_verify.comparing.statistics import rms
from finetune_verify.scores import ScoredRow

TRIALS = 300
BFLOAT16 = ("bfloat16",)


def student(drawn: random.Random) -> float:
    """Return a value of Student's t with three degrees of freedom, of variance 1."""
    return drawn.gauss() / math.sqrt(sum(drawn.gauss() ** 2 for _ in range(3)))


NOISE: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda drawn: drawn.gauss(),
    "heavy tails": student,
}


def row(drawn: random.Random, tokens: int, odds: float, noise: str) -> ScoredRow:
    """Return the scores of a row; server and reference round independently, by the same amount."""
    log_odds = [drawn.gauss(odds, 3) for _ in range(tokens)]
    tuned = [-math.log1p(math.exp(-each)) for each in log_odds]

    def rounded() -> list[float]:
        return [
            score + 0.1 * NOISE[noise](drawn) * uncertainty(score) * drawn.lognormvariate(0, 1)
            for score in tuned
        ]

    base = [score - drawn.gauss(1, 1) * uncertainty(score) for score in tuned]
    return ScoredRow(served=rounded(), tuned=tuned, base=base, rounded=rounded())


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("odds", [0.0, 5.0], ids=["unsure", "memorized"])
def test_scores_of_sixteen_tokens_are_rejected_by_their_own_errors_only(
    odds: float, noise: str
) -> None:
    """The largest errors of the whole reference bound them."""
    drawn = random.Random(3)
    alone = bounded = 0
    for _ in range(TRIALS):
        reference, long = row(drawn, 500, odds, noise), row(drawn, 16, odds, noise)
        allowed = few_tokens.tolerance(
            [uncertainty(*pair) for pair in zip(long.rounded, long.tuned, strict=True)],
            [reference],
            dtypes=BFLOAT16,
            paths=MERGED,
        )
        assert allowed is not None
        distance, own = rms(long.differences), tolerance(long.rounding, BFLOAT16, MERGED)
        alone += distance > own
        bounded += distance > max(own, allowed)
    assert bounded <= TRIALS // 150
    assert alone > bounded, "the bound is needed"


def test_too_few_recorded_tokens_bound_nothing() -> None:
    few = row(random.Random(1), RECORDED - 1, 0.0, "normal")
    assert few_tokens.tolerance([0.5], [few], dtypes=BFLOAT16, paths=MERGED) is None


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_never_reject_a_wrong_scale(rows: int) -> None:
    drawn = random.Random(7)
    for _ in range(TRIALS):
        scored = [row(drawn, 50, 5.0, "heavy tails") for _ in range(rows)]
        found = tuning_effect.estimate(scored, roundoff=1.0, paths=MERGED)
        assert found.allowed
        assert found.smallest_fault == math.inf


def test_four_rows_rarely_reject_a_correct_server() -> None:
    drawn, rejected = random.Random(11), 0
    for _ in range(TRIALS):
        scored = [row(drawn, 50, 2.0, "normal") for _ in range(4)]
        rejected += not tuning_effect.estimate(scored, roundoff=1.0, paths=MERGED).allowed
    assert rejected <= TRIALS // 100
