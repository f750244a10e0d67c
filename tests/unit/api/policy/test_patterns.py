"""Patterns of the policy: their syntax, and that they match as regular expressions do."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.policy.patterns import ESCAPED, MAX_LENGTH, InvalidPattern, check, matches

ATOMS = st.sampled_from(
    ["a", "b", "-", "/", ".", r"\.", r"\\", "[ab]", "[^a]", "[a-c]", "[a-]", "[-a]", "[^.a-b-]"]
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    atom = ATOMS | inner.map(lambda text: f"({text})")
    part = st.tuples(atom, st.sampled_from(["", "", "*", "+", "?"])).map("".join)
    sequence = st.lists(part, max_size=4).map("".join)
    return st.lists(sequence, min_size=1, max_size=2).map("|".join)


PATTERNS = st.recursive(ATOMS, _grown, max_leaves=8).filter(
    lambda text: 0 < len(text) <= MAX_LENGTH
)
"""Patterns of the common syntax."""
VALUES = st.text("abc-/.\\\nd", max_size=8)


@settings(max_examples=2000)
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
