"""Which rows repeat others and which are held out: decided by their content and the seed alone.

So equal rows are on the same side of the split, whatever their order and however many there are.
"""

import hashlib
import json
from array import array
from typing import Any

import numpy as np

from finetune_trainer.data.schema import Example

VALIDATION_FROM = 400
"""Rows from which on some are held out where ``validationFraction`` is not written."""
VALIDATION_SHARE = 0.05
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def content_hash(example: Example, seed: int) -> int:
    """64 bits of the content and the seed."""
    content = json.dumps(
        example.text if example.text is not None else example.messages,
        ensure_ascii=False,
        sort_keys=True,
        default=str,
    )
    digest = hashlib.sha256(f"{seed}\n".encode() + content.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8])


class ContentHashes:
    """Hashes of rows in the order in which they came."""

    def __init__(self, *, validation_fraction: float | None) -> None:
        """validation_fraction: as the spec has it; None for the built-in rule."""
        self._hashes = array("Q")
        self._written = validation_fraction

    def __len__(self) -> int:
        """Rows."""
        return len(self._hashes)

    def append(self, content: int) -> None:
        """Take a row."""
        self._hashes.append(content)

    def may_be_held_out(self, content: int) -> bool:
        """Tell whether such a row is held out if enough others are left."""
        return content < self._threshold(VALIDATION_SHARE)

    def held_out(self, kept: int) -> Flags:
        """Tell of each row whether it is held out, where ``kept`` rows are taken at all."""
        share = VALIDATION_SHARE if kept >= VALIDATION_FROM else 0.0
        return np.asarray(self._array() < np.uint64(self._threshold(share)), dtype=np.bool_)

    def first_of_equals(self) -> Flags:
        """Tell of each row whether no row before it has the same content."""
        first = np.zeros(len(self._hashes), dtype=np.bool_)
        first[np.unique(self._array(), return_index=True)[1]] = True
        return first

    def also_in(self, others: "ContentHashes") -> int:
        """Count the rows whose content is among others."""
        return int(np.isin(self._array(), others._array()).sum())

    def _threshold(self, builtin: float) -> int:
        return int((builtin if self._written is None else self._written) * 2**63) * 2

    def _array(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.asarray(self._hashes, dtype=np.uint64)
