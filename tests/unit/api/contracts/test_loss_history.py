"""The loss history is thinned evenly, and fits into the result of a training."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.base import MAX_NUMBER
from finetune_api.contracts import loss_history
from finetune_api.contracts.loss_history import (
    RECORDED_BYTES,
    RECORDED_POINTS,
    SERVED_BYTES,
    SERVED_POINTS,
)
from finetune_api.contracts.result import LIMIT, Result
from finetune_api.v1alpha1.status.artifacts import TrainArtifacts

SERIES = st.lists(st.tuples(st.integers(0, 10**9), st.floats()), max_size=400)
NAMES = ("loss", "evalLoss", "learningRate", "tokensPerSecond")


def training(steps: int) -> dict[str, list[tuple[int, float]]]:
    return {
        "loss": [(step, 1 + 1 / step) for step in range(1, steps + 1)],
        "evalLoss": [(step, 1.234567 + 1 / step) for step in range(steps // 10, steps + 1, 100)],
        "learningRate": [(step, 2e-4 * step / steps) for step in range(1, steps + 1)],
        "tokensPerSecond": [(step, 12345.6) for step in range(2, steps + 1)],
        "gradNorm": [(step, 0.5) for step in range(1, steps + 1)],
    }


@pytest.mark.parametrize(
    ("count", "most", "steps"),
    [
        (3, 5, [1, 2, 3]),
        (5, 5, [1, 2, 3, 4, 5]),
        (9, 5, [1, 3, 5, 7, 9]),
        (10, 2, [1, 10]),
        (10, 1, [10]),
        (0, 5, []),
    ],
)
def test_points_are_thinned_evenly_with_the_first_and_the_last(
    count: int, most: int, steps: list[int]
) -> None:
    points = [(step, 0.0) for step in range(1, count + 1)]
    assert [step for step, _ in loss_history.thinned(points, most)] == steps


def test_the_port_serves_at_most_200_points_of_each_series() -> None:
    points = loss_history.served(training(1000))
    assert len(points["loss"]) == len(points["tokensPerSecond"]) == SERVED_POINTS == 200
    assert (points["loss"][0], points["loss"][-1]) == ((1, 2.0), (1000, 1.001))
    assert "gradNorm" not in points
    text = loss_history.text(points)
    assert len(text) < SERVED_BYTES
    assert loss_history.parsed(text) == points


@pytest.mark.parametrize(("steps", "least"), [(1500, 45), (100_000, 30)])
def test_a_long_training_leaves_many_points_in_its_result(steps: int, least: int) -> None:
    points = loss_history.recorded(training(steps))
    assert points is not None
    assert least < len(points["loss"]) <= RECORDED_POINTS
    assert len(points["learningRate"]) < len(points["loss"]) / 2
    assert points["loss"][-1][0] == steps


@given(series=st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, SERIES)))
def test_any_history_fits_and_is_in_the_result(
    series: dict[str, list[tuple[int, float]]],
) -> None:
    points = loss_history.recorded(series)
    bounded = any(abs(value) <= MAX_NUMBER for each in series.values() for _, value in each)
    assert (points is not None) == bounded
    if points is None:
        return
    assert len(loss_history.text(points)) <= RECORDED_BYTES
    result = Result(
        stage="train",
        outcome="failed",
        reason="LossDiverged",
        artifacts=TrainArtifacts(loss_history=points),
    )
    text = result.to_message()
    assert Result.from_message(text) == result
    lengths = [len(each) for each in json.loads(text)["artifacts"]["lossHistory"].values()]
    assert max(lengths) <= RECORDED_POINTS


@pytest.mark.parametrize(
    "content", ["", "[]", '{"loss": 1}', '{"x": []}', "[" * 9000, '{"loss": [[1]]}']
)
def test_a_text_that_is_no_history_is_none(content: str) -> None:
    assert loss_history.parsed(content) is None
    assert loss_history.parsed('{"loss": [[1, NaN], [2, 1e999], [3, 1]]}') == {"loss": [(3, 1.0)]}


@pytest.mark.parametrize("value", [[[1]], [[1, 2, 3]], [[0, "x"]], "loss", [[1, 1.0]] * 201])
def test_a_history_of_another_form_is_left_out_of_the_result(value: object) -> None:
    artifacts = {"adapter": "sha256:a", "lossHistory": {"loss": value}}
    message = {"stage": "train", "outcome": "completed", "reason": "Completed"}
    result = Result.from_message(json.dumps(message | {"artifacts": artifacts}))
    if result is not None:
        assert result.artifacts == TrainArtifacts(adapter="sha256:a")


@pytest.mark.parametrize(
    "point",
    [
        "[1, NaN]",
        "[1, 1e400]",
        "[1, -1.7e308]",
        f"[{10**400}, 1.0]",
        f"[{MAX_NUMBER + 1}, 1.0]",
        "[-1, 1.0]",
        "[1, -Infinity]",
    ],
)
def test_a_history_with_a_number_that_no_status_may_have_is_left_out_of_the_result(
    point: str,
) -> None:
    """The API server would reject the status of the job, at every later reconcile."""
    history = f'{{"loss": [[1, 1.0], {point}]}}'
    artifacts = f'{{"adapter": "sha256:a", "lossHistory": {history}}}'
    result = Result.from_message(
        '{"stage": "train", "outcome": "completed", "reason": "Completed", '
        f'"artifacts": {artifacts}}}'
    )
    assert result is not None
    assert result.artifacts == TrainArtifacts(adapter="sha256:a")
    assert loss_history.parsed(history) == {"loss": [(1, 1.0)]}


def test_a_result_that_is_too_long_loses_the_history_first() -> None:
    artifacts = TrainArtifacts(
        adapter="sha256:" + "a" * 64,
        versions={"torch": "2.9.0"},
        adapted_modules=["q_proj"],
        loss_history={"loss": [(step, 1.0) for step in range(60)]},
    )
    warnings = ["w" * 300] * 10
    result = Result(
        stage="train",
        outcome="completed",
        reason="Completed",
        message="m" * 300,
        artifacts=artifacts,
        warnings=warnings,
    )
    text = result.to_message()
    assert len(text.encode()) <= LIMIT
    read = Result.from_message(text)
    assert read == result.model_copy(
        update={"artifacts": artifacts.model_copy(update={"loss_history": None})}
    )
