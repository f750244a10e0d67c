import pytest

from finetune_api.durations import duration, estimated


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (float("inf"), "?"),
        (0, "0s"),
        (45.4, "45s"),
        (59.6, "1m00s"),
        (250.0, "4m10s"),
        (3720.0, "1h02m"),
        (86_399.0, "23h59m"),
        (3 * 86_400 + 4 * 3600, "3d04h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a minute"), (59.6, "less than a minute"), (60, "1m00s"), (3720, "1h02m")],
)
def test_short_estimate_has_no_seconds(seconds: float, text: str) -> None:
    assert estimated(seconds) == text
