"""Quantities have the same value as in Kubernetes."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.quantity import MESSAGE, amount


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("2", "2"),
        ("+2", "2"),
        (".5", "0.5"),
        ("2.", "2"),
        ("500m", "0.5"),
        ("1.5Gi", "1610612736"),
        ("16G", "16000000000"),
        ("1n", "0.000000001"),
        ("2k", "2000"),
        ("2Ki", "2048"),
        ("1Pi", "1125899906842624"),
    ],
)
def test_amount_of_a_quantity(text: str, number: str) -> None:
    assert amount(text) == Decimal(number)


@pytest.mark.parametrize(
    "text", ["", "-1", "16GB", "1e3", "1E", "Gi", "1 Gi", "1\n", "٣", "0x1", "1.2.3", "9" * 30]
)
def test_text_that_is_no_quantity_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="write a quantity such as") as refusal:
        amount(text)
    assert str(refusal.value) == MESSAGE


@given(number=st.integers(min_value=0, max_value=10**12), suffix=st.sampled_from(["", "k", "Mi"]))
def test_amounts_keep_the_order_of_numbers(number: int, suffix: str) -> None:
    assert amount(f"{number}{suffix}") < amount(f"{number + 1}{suffix}")
