"""What the page of the tutorial shows of the recorded outputs."""

import pytest

from tutorial import page
from tutorial.page import ELLIPSIS


def test_output_ends_before_a_line() -> None:
    assert page._shown("a\nTo run b\nc", "To run") == ["a", ELLIPSIS]
    assert page._shown("a\nb", "") == ["a", "b"]


def test_a_line_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no line of the output starts with 'To run'"):
        page._shown("a\nb", "To run")


def test_progress_is_shown_in_part() -> None:
    steps = [f"x   Training   train {n}%   {n}m0{n}s   0.{n}   {n}s" for n in range(1, 10)]
    shown = page._thinned(["NAME", *steps, "x   Serving   10s"])
    assert shown == ["NAME", steps[0], ELLIPSIS, steps[4], ELLIPSIS, steps[-1], "x   Serving   10s"]


def test_lines_that_differ_in_words_are_all_shown() -> None:
    lines = [f"{word} 1s" for word in "abcdefgh"]
    assert page._thinned(lines) == lines
