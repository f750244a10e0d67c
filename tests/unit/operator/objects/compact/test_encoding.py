"""Objects as bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.objects.compact.encoding import decoded, encoded

TEXTS = st.text(st.characters(codec="utf-8") | st.just("\udc00"), max_size=3)
"""Also half of a surrogate pair, which a pod can write as an escape of JSON."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=9,
)


@given(VALUES)
def test_values_are_read_as_they_were_written(value: Any) -> None:
    assert decoded(encoded(value)) == value


@given(VALUES, VALUES)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    assert (encoded(one) == encoded(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize("value", ["\ud800", 2**64, -(2**64), {"\udfff": [{}]}])
def test_values_that_message_pack_cannot_express_are_kept(value: Any) -> None:
    assert decoded(encoded({"a": [value]})) == {"a": [value]}
