"""Patterns of the policy: their syntax, and that they match as regular expressions do."""

import re

import pytest
from hypothesis import given
from tests.support.patterns import PATTERNS, VALUES

from finetune_api.policy.patterns import ESCAPED, InvalidPattern, check, matches


@given(pattern=PATTERNS, value=VALUES)
def test_patterns_match_as_regular_expressions(pattern: str, value: str) -> None:
    assert matches(check(pattern), value) == bool(re.fullmatch(pattern, value))


@pytest.mark.parametrize("char", sorted(ESCAPED))
def test_escaped_punctuation_matches_itself(char: str) -> None:
    assert matches(f"\\{char}", char)
    assert not matches(f"\\{char}", "a")


@pytest.mark.parametrize(
    "pattern",
    [
        "", "*a", "a**", "a*?", "a+++", "a{2}", "(?i)a", r"\d", r"\b", "[z-a]", "[]", "[^]", "[a",
        "(", "a)", "(a", "^a$", "ä", "[a--b]", "[a-b-c]", "[+--]", "a\n", "\\", "a" * 129,
    ],
)  # fmt: skip
def test_other_syntax_is_rejected(pattern: str) -> None:
    with pytest.raises(InvalidPattern, match="pattern "):
        check(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a*)*(a*)*(a+)+b", "(" * 40 + "a" + "+)" * 40, "(.*)*" * 25, "(a|a?)+" * 18]
)
def test_no_pattern_needs_exponential_time(pattern: str) -> None:
    """Backtracking would not end; the limit of the test suite is its timeout."""
    matches(pattern, "a" * 512)
