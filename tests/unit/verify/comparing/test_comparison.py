"""Comparison of scores: deviations that the tolerance allows, and values that never pass."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_verify.comparing.comparison import APART, MERGED, Comparison, compare, tolerance
from finetune_verify.comparing.statistics import relative_error, rms
from finetune_verify.scores import ScoredRow

TOKENS = 2000
ROWS = 40
ODDS = -0.5


def noise(size: float, seed: int, tokens: int = TOKENS) -> list[float]:
    """Return random rounding errors, most of which are in a few tokens."""
    tokens_own, drawn = random.Random(0), random.Random(seed)
    return [drawn.gauss(0, size) * tokens_own.lognormvariate(0, 1) for _ in range(tokens)]


def log_probability(odds: float) -> float:
    """Return the log-probability for log-odds."""
    return -math.log1p(math.exp(-odds))


def in_rows(
    served: list[float], tuned: list[float], base: list[float], rounded: list[float], rows: int
) -> list[ScoredRow]:
    """Return the scores as rows of equal length."""
    return [
        ScoredRow(
            served=served[row::rows],
            tuned=tuned[row::rows],
            base=base[row::rows],
            rounded=rounded[row::rows],
        )
        for row in range(rows)
    ]


def scores(*changes: list[float]) -> list[float]:
    """Return log-probabilities of tokens whose log-odds have these changes."""
    return [log_probability(ODDS + math.fsum(each)) for each in zip(*changes, strict=True)]


def judged(
    distance: float,
    *,
    seed: int = 1,
    effect: float = 4.0,
    scale: float = 1.0,
    dtype: str = "bfloat16",
    paths: int = MERGED,
    tokens: int = TOKENS,
) -> Comparison:
    """Return the verdict on a served adapter at ``scale`` of its scale.

    The rounding errors are ``distance`` times those of bfloat16, and the adapter changes the
    log-odds of tokens by up to 1.3 ``effect``.
    """
    drawn = random.Random(5)
    changes = [effect * drawn.choice((-0.5, 1.0, 1.3)) for _ in range(tokens)]
    return compare(
        in_rows(
            scores(
                [(scale - 1) * change for change in changes],
                noise(distance * 0.05, seed, tokens),
            ),
            scores([0.0] * tokens),
            scores([-change for change in changes]),
            scores(noise(0.05, 1000, tokens)),
            min(ROWS, tokens),
        ),
        dtypes=(dtype, dtype),
        paths=paths,
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


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("paths", [MERGED, APART])
@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_adapter_at_a_wrong_scale_is_a_mismatch(seed: int, paths: int, scale: float) -> None:
    """Rounding hides the error of the scale in each single score, but not in all of them."""
    effect = 8 * judged(1.0, paths=paths).tolerance
    fault = judged(1.0, seed=seed, effect=effect, scale=scale, paths=paths)
    assert fault.outcome == "Mismatch"
    assert fault.distance < fault.tolerance
    assert fault.effect_error is not None
    assert 1 + fault.effect_error.error == pytest.approx(scale, abs=0.04)
    assert judged(1.0, seed=seed, effect=effect, paths=paths).outcome == "Verified"


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("tokens", [40, 2000])
@pytest.mark.parametrize("effect", [0.05, 0.5, 5.0])
def test_every_error_of_the_scale_from_the_reported_one_is_detected(
    seed: int, tokens: int, effect: float
) -> None:
    correct = judged(1.0, seed=seed, effect=effect, tokens=tokens)
    smallest = correct.smallest_fault or math.inf
    assert correct.outcome == ("Verified" if smallest <= 0.1 else "Inconclusive")
    if smallest > 1:
        return
    for sign in (-1, 1):
        scale = 1 + sign * 1.3 * smallest
        found = judged(1.0, seed=seed, effect=effect, tokens=tokens, scale=scale)
        assert found.outcome == "Mismatch"


def test_less_rounding_and_more_tokens_detect_smaller_faults() -> None:
    def smallest(distance: float = 1.0, **changes: Any) -> float:
        return judged(distance, **{"effect": 0.5, **changes}).smallest_fault or math.inf

    assert smallest(1 / 8, dtype="float16") < smallest()
    assert smallest(effect=5.0) < smallest()
    assert smallest(tokens=100) > smallest()


def test_too_small_effect_is_inconclusive() -> None:
    assert judged(1.0, effect=0.2).outcome == "Inconclusive"
    assert judged(1.0, effect=1.0).outcome == "Verified"


def test_scores_of_a_base_that_only_rounding_changes_verify_nothing() -> None:
    """An adapter that learned nothing: rounding alone makes its base differ."""
    tuned, rounded = scores([0.0] * TOKENS), scores(noise(0.05, 1000))
    for base in (tuned, rounded):
        found = compare(
            in_rows(list(base), tuned, base, rounded, ROWS), dtypes=("bfloat16",), paths=MERGED
        )
        assert found.outcome == "Inconclusive"
        assert found.smallest_fault is None


@pytest.mark.parametrize("seed", range(1, 21))
def test_rounding_common_to_all_tokens_is_no_wrong_scale(seed: int) -> None:
    """Rounded weights may change all scores along the effect of tuning."""
    bias = [0.1 * abs(random.Random(seed).gauss(0, 1))] * TOKENS
    found = compare(
        in_rows(
            scores(bias, noise(0.05, seed)),
            scores([0.0] * TOKENS),
            scores([-1.0] * TOKENS),
            scores(bias, noise(0.05, 1000)),
            ROWS,
        ),
        dtypes=("bfloat16",),
        paths=MERGED,
    )
    assert found.outcome != "Mismatch"


def test_float32_is_not_compared_more_finely_than_its_steps() -> None:
    """A step of float32 at -5.5, found with a tiny model in a real vLLM."""
    tuned = scores(noise(1.0, 1), [-5.0] * TOKENS)
    served = [
        value + random.Random(number).choice((-4.8e-7, 0.0, 4.8e-7))
        for number, value in enumerate(tuned)
    ]
    rounded = [value + 1e-4 for value in tuned]
    rows = in_rows(served, tuned, scores(noise(1.0, 2)), rounded, ROWS)
    found = compare(rows, dtypes=("float32", "float32"), paths=APART)
    assert tolerance([1e-4] * TOKENS, ("float32", "float32"), APART) < found.distance
    assert found.outcome == "Verified"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -9999.0])
def test_nan_score_never_passes(strange: float) -> None:
    found = compare(
        in_rows([-1.0, strange], [-1.0, -1.0], [-5.0, -5.0], [-0.9, -1.1], 1),
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
