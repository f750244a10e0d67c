"""The long row of the reference: positions after those of its other rows. Pure.

The rows of the reference have at most 512 tokens, and a server accepts more: positions, attention
windows and caches of longer prompts are then untested. The long row is made of the tokens of all
other rows, one row after another. So it needs no long row in the dataset, and the same sample
always results in the same row.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from finetune_trainer.data.reference_sample import LENGTH as BLOCK

LENGTH = 2048
"""Maximum number of tokens, which is that of a forward pass of the reference: the long row needs no
more memory than other rows. It costs at most as much time as all other rows together."""
SCORED = 16
"""Scored tokens at the end of each block of 512 tokens: a server may accept only some of them."""


def of_rows(rows: Sequence[Mapping[str, Any]], *, context: int | None) -> dict[str, Any] | None:
    """Return the row, without scores; None if the rows or the model have too few positions.

    rows: of the sample. context: number of positions of the model, None if it is not limited.
    """
    tokens = chain.from_iterable(row["ids"] for row in rows)
    limit = LENGTH if context is None else min(LENGTH, context)
    ids = [token for token, _ in zip(tokens, range(limit), strict=False)]
    ends = range(len(ids), BLOCK + SCORED - 1, -BLOCK)
    if not ends:
        return None
    return {"ids": ids, "spans": [(end - SCORED, end) for end in reversed(ends)]}
