"""The long row of the reference: length, scored tokens, and when there is none."""

from typing import Any

import pytest

from finetune_trainer.data.reference_sample import LENGTH as BLOCK
from finetune_trainer.evaluation.long_row import LENGTH, SCORED, of_rows


def rows(*lengths: int) -> list[dict[str, Any]]:
    """Return rows with distinct tokens."""
    made, first = [], 0
    for length in lengths:
        made.append({"ids": list(range(first, first + length))})
        first += length
    return made


@pytest.mark.parametrize(
    ("lengths", "context", "length", "ends"),
    [
        ([300, 300], None, 600, [600]),
        ([512] * 5, None, LENGTH, [1024, 1536, 2048]),
        ([512] * 5, 1024, 1024, [1024]),
        ([400, 400, 400], 32_768, 1200, [688, 1200]),
    ],
)
def test_row_is_made_of_all_rows(
    lengths: list[int], context: int | None, length: int, ends: list[int]
) -> None:
    found = of_rows(rows(*lengths), context=context)
    assert found is not None
    assert found["ids"] == list(range(length))
    assert found["spans"] == [(end - SCORED, end) for end in ends]
    assert found["spans"][0][0] >= BLOCK, "earlier positions are those of the rows"


@pytest.mark.parametrize(
    ("lengths", "context"), [([200, 200], None), ([512, 10], None), ([512, 512], BLOCK), ([], None)]
)
def test_short_samples_and_models_have_no_long_row(lengths: list[int], context: int | None) -> None:
    assert of_rows(rows(*lengths), context=context) is None
