"""Finds duplicate rows and held-out rows, by the content of a row and the seed alone.

Equal rows are therefore always on the same side of the split.
"""

import hashlib
import json
from array import array
from typing import Any

import numpy as np

from finetune_trainer.data.schema import Example

VALIDATION_FROM = 400
"""Number of rows from which some are held out if ``validationFraction`` is not set."""
VALIDATION_SHARE = 0.05
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def content_hash(example: Example, seed: int) -> int:
    """Return a 64-bit hash of the content and the seed."""
    content = json.dumps(
        example.text if example.text is not None else example.messages,
        ensure_ascii=False,
        sort_keys=True,
        default=str,
    )
    digest = hashlib.sha256(f"{seed}\n".encode() + content.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8])


class ContentHashes:
    """Hashes of all rows, in order."""

    def __init__(self, *, validation_fraction: float | None) -> None:
        """``validation_fraction`` is that of the spec; None selects the built-in rule."""
        self._hashes = array("Q")
        self._written = validation_fraction

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._hashes)

    def append(self, content: int) -> None:
        """Add the hash of a row."""
        self._hashes.append(content)

    def may_be_held_out(self, content: int) -> bool:
        """Report whether a row with this hash is held out if there are enough rows."""
        return content < self._threshold(VALIDATION_SHARE)

    def held_out(self, kept: int) -> Flags:
        """Return for each row whether it is held out; ``kept`` is the number of rows in use."""
        share = VALIDATION_SHARE if kept >= VALIDATION_FROM else 0.0
        return np.asarray(self._array() < np.uint64(self._threshold(share)), dtype=np.bool_)

    def first_of_equals(self) -> Flags:
        """Return for each row whether it is the first with its content."""
        first = np.zeros(len(self._hashes), dtype=np.bool_)
        first[np.unique(self._array(), return_index=True)[1]] = True
        return first

    def also_in(self, others: "ContentHashes") -> int:
        """Return the number of rows whose content is also in ``others``."""
        return int(np.isin(self._array(), others._array()).sum())

    def _threshold(self, builtin: float) -> int:
        return int((builtin if self._written is None else self._written) * 2**63) * 2

    def _array(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.asarray(self._hashes, dtype=np.uint64)
