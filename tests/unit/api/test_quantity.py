"""Quantities have the same value as in Kubernetes."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from finetune_api.quantity import MESSAGE, Quantity, amount


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


def test_suffixes_are_those_of_kubernetes() -> None:
    decimal = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
    for suffix, exponent in decimal.items():
        assert amount(f"3{suffix}") == Decimal(3).scaleb(exponent), suffix
    for step, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi"], start=1):
        assert amount(f"3{suffix}") == 3 * 1024**step, suffix


def test_whole_numbers_become_texts_and_truth_values_do_not() -> None:
    adapter: TypeAdapter[str] = TypeAdapter(Quantity)
    assert adapter.validate_python(2) == "2"
    assert adapter.validate_python("500m") == "500m"
    for value in (True, 1.5, "x", -1):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


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
