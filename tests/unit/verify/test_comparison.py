"""Comparison of scores: deviations that the tolerance allows, and values that never pass."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_verify.comparison import (
    APART,
    MERGED,
    Comparison,
    compare,
    relative_error,
    rms,
    tolerance,
)

TOKENS = 2000


def noise(size: float, seed: int, tokens: int = TOKENS) -> list[float]:
    """Return random rounding errors, most of which are in a few tokens."""
    tokens_own, drawn = random.Random(0), random.Random(seed)
    return [drawn.gauss(0, size) * tokens_own.lognormvariate(0, 1) for _ in range(tokens)]


def judged(distance: float, *, seed: int = 1, effect: float = 4.0, dtype: str) -> Comparison:
    """Return the verdict if the rounding errors are ``distance`` times those of bfloat16."""
    tuned = [-1.0] * TOKENS
    return compare(
        served=[a + b for a, b in zip(tuned, noise(distance * 0.05, seed), strict=True)],
        tuned=tuned,
        base=[each - effect for each in tuned],
        rounding=noise(0.05, 1000),
        dtypes=(dtype, dtype),
        paths=MERGED,
    )


@pytest.mark.parametrize("seed", range(1, 21))
def test_correct_server_passes_in_its_number_format(seed: int) -> None:
    assert judged(1.0, seed=seed, dtype="bfloat16").outcome == "Verified"
    assert judged(1 / 8, seed=seed, dtype="float16").outcome == "Verified"
    # A server with twice as many roundings.
    assert judged(math.sqrt(2), seed=seed, dtype="bfloat16").outcome == "Verified"


@pytest.mark.parametrize("seed", range(1, 21))
def test_distance_beyond_rounding_is_a_mismatch(seed: int) -> None:
    assert judged(1.0, seed=seed, dtype="float16").outcome == "Mismatch"
    assert judged(4.0, seed=seed, dtype="bfloat16").outcome == "Mismatch"


def test_too_small_effect_is_inconclusive() -> None:
    allowed = judged(1.0, dtype="bfloat16").tolerance
    assert judged(1.0, dtype="bfloat16", effect=7.9 * allowed).outcome == "Inconclusive"
    assert judged(1.0, dtype="bfloat16", effect=8.1 * allowed).outcome == "Verified"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -9999.0])
def test_nan_score_never_passes(strange: float) -> None:
    found = compare(
        served=[-1.0, strange],
        tuned=[-1.0, -1.0],
        base=[-5.0, -5.0],
        rounding=[0.1, -0.1],
        dtypes=("bfloat16",),
        paths=MERGED,
    )
    assert found.outcome == "Mismatch"


def test_coarser_number_format_sets_the_tolerance() -> None:
    rounding = noise(0.05, 3)
    assert tolerance(rounding, ("float16", "float32"), MERGED) == tolerance(
        rounding, ("float16",), MERGED
    )
    assert tolerance(rounding, ("float16",), APART) == pytest.approx(
        math.sqrt(2) * tolerance(rounding, ("float16",), MERGED)
    )
    ratio = tolerance(rounding, ("bfloat16", "float16"), MERGED) / tolerance(
        rounding, ("float16",), MERGED
    )
    assert ratio == pytest.approx(8, rel=1e-3)


@given(
    st.lists(st.floats(-10, 10).filter(lambda v: v == 0 or abs(v) > 1e-9), min_size=1, max_size=50),
    st.floats(0.01, 100),
)
def test_tolerance_scales_with_the_rounding(values: list[float], factor: float) -> None:
    scaled = tolerance([each * factor for each in values], ("float16",), MERGED)
    assert scaled == pytest.approx(
        factor * tolerance(values, ("float16",), MERGED), rel=1e-6, abs=1e-12
    )


def test_standard_error_equals_that_of_repeated_draws() -> None:
    drawn = random.Random(7)
    draws = [[drawn.gauss(0, 1) for _ in range(200)] for _ in range(400)]
    found = [rms(each) for each in draws]
    mean = math.fsum(found) / len(found)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in found) / len(found)) / mean
    assert relative_error(draws[0]) == pytest.approx(spread, rel=0.2)
