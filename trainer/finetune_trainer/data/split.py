"""Finds duplicate rows and held-out rows, by the content of a row and the seed alone.

The held-out rows are the rows with the smallest hashes, so their number is exact and equal rows are
always on the same side of the split.
"""

import hashlib
import json
import math
from array import array
from typing import Any

import numpy as np

from finetune_trainer.data.rows.schema import Example

VALIDATION_FROM = 100
"""Number of rows from which some are held out if ``validationFraction`` is not set."""
VALIDATION_SHARE = 0.05
VALIDATION_ROWS = 20
"""Least number of rows that are held out by default; the evaluation gate needs as many."""
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def content_hash(example: Example, seed: int) -> int:
    """Return a 64-bit hash of the content and the seed."""
    hashed: Any = example.text if example.text is not None else example.messages
    if example.tools or example.silent:
        hashed = [hashed, example.tools, sorted(example.silent)]
    content = json.dumps(hashed, ensure_ascii=False, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{seed}\n".encode() + content.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8])


def held_out_count(rows: int, fraction: float | None) -> int:
    """Return how many of the rows are held out. fraction: of the spec, None for the default.

    A fraction above 0 holds out at least one row, and at least one row remains for training.
    """
    if fraction is None:
        default = max(VALIDATION_ROWS, math.ceil(VALIDATION_SHARE * rows))
        return default if rows >= VALIDATION_FROM else 0
    return 0 if fraction == 0 else max(0, min(max(1, round(fraction * rows)), rows - 1))


class ContentHashes:
    """Hashes of all rows, in order."""

    def __init__(self, *, validation_fraction: float | None) -> None:
        """``validation_fraction`` is that of the spec; None selects the built-in rule."""
        self._hashes = array("Q")
        self._fraction = validation_fraction

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._hashes)

    def append(self, content: int) -> None:
        """Add the hash of a row."""
        self._hashes.append(content)

    def largest_held_out(self, used: Flags) -> int | None:
        """Return the largest hash of a held-out row, None if no row is held out.

        used: for each row whether it is used at all. Equal rows are held out together, so more
        rows than planned may be held out if the last of them has duplicates.
        """
        count = held_out_count(int(used.sum()), self._fraction)
        if not count:
            return None
        contents, rows = np.unique(self._array()[used], return_counts=True)
        return int(contents[np.searchsorted(np.cumsum(rows), count)])

    def up_to(self, largest: int | None) -> Flags:
        """Return for each row whether its hash is at most ``largest``; None selects no row."""
        if largest is None:
            return np.zeros(len(self._hashes), dtype=np.bool_)
        return np.asarray(self._array() <= np.uint64(largest), dtype=np.bool_)

    def first_of_equals(self) -> Flags:
        """Return for each row whether it is the first with its content."""
        first = np.zeros(len(self._hashes), dtype=np.bool_)
        first[np.unique(self._array(), return_index=True)[1]] = True
        return first

    def drawn(self, rows: Flags, share: float, seed: int) -> Flags:
        """Return a share of some rows, drawn by their contents and the seed."""
        chosen = np.zeros(len(self._hashes), dtype=np.bool_)
        numbers = np.flatnonzero(rows)
        random = np.random.default_rng(seed)
        # Held-out rows have the smallest hashes, so a second hash is drawn for each content.
        salt = random.integers(1, 2**63, dtype=np.uint64) | np.uint64(1)
        mixed = self._array()[numbers] * salt
        order = np.lexsort((numbers, mixed))
        chosen[numbers[order[: round(share * len(numbers))]]] = True
        return chosen

    def also_in(self, others: "ContentHashes") -> int:
        """Return the number of rows whose content is also in ``others``."""
        return int(np.isin(self._array(), others._array()).sum())

    def _array(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.asarray(self._hashes, dtype=np.uint64)
