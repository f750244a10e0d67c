"""Collects tokenized rows and stores them in the files that the training reads.

The training set and the held-out rows are safetensors files of flat arrays: ``input_ids`` and
``labels`` of all rows concatenated, ``rows`` (row borders) and ``sequences`` (borders of training
sequences, in rows). Later stages read no text, so every backend trains on the same tokens and
labels.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from finetune_trainer.data.chat_rendering import IGNORED, Encoded

TRAIN = "train.safetensors"
HELD_OUT = "eval.safetensors"
Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Rows as flat arrays. ``rows`` and ``sequences`` are borders: N rows have N + 1 borders."""

    input_ids: np.ndarray[Any, np.dtype[np.int32]]
    labels: np.ndarray[Any, np.dtype[np.int32]]
    rows: Integers
    sequences: Integers

    @property
    def count(self) -> int:
        """Number of training sequences."""
        return len(self.sequences) - 1

    @property
    def bytes(self) -> int:
        """Bytes on disk, without the header."""
        return sum(column.nbytes for column in vars(self).values())

    def save(self, path: Path) -> None:
        """Write a safetensors file; equal tokens give equal bytes."""
        save_file(dict(vars(self)), path)

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """Read what ``save`` wrote."""
        return cls(**load_file(path))


class TokenBuffer:
    """Collects rows in order, with four bytes for a token id and four for its label."""

    def __init__(self) -> None:
        """Create an empty buffer."""
        self._ids = array("i")
        self._labels = array("i")
        self._borders = array("q", [0])

    def append(self, row: Encoded) -> None:
        """Add a row."""
        self._ids.extend(row.input_ids)
        self._labels.extend(row.labels)
        self._borders.append(len(self._ids))

    @property
    def lengths(self) -> Integers:
        """Tokens of each row."""
        borders: Integers = np.asarray(self._borders, dtype=np.int64)
        return borders[1:] - borders[:-1]

    @property
    def learned(self) -> int:
        """Number of tokens that the loss covers."""
        return int((np.asarray(self._labels, dtype=np.int32) != IGNORED).sum())

    @property
    def largest(self) -> int:
        """The largest token id; 0 if there is none."""
        return int(np.asarray(self._ids, dtype=np.int32).max(initial=0))

    def gather(self, groups: Sequence[Sequence[int]]) -> Tokens:
        """Return the rows with the given numbers, each group as one sequence."""
        borders = self._borders
        ids, labels = array("i"), array("i")
        rows, sequences = array("q", [0]), array("q", [0])
        for group in groups:
            for row in group:
                ids.extend(self._ids[borders[row] : borders[row + 1]])
                labels.extend(self._labels[borders[row] : borders[row + 1]])
                rows.append(len(ids))
            sequences.append(len(rows) - 1)
        return Tokens(
            input_ids=np.array(ids, dtype=np.int32),
            labels=np.array(labels, dtype=np.int32),
            rows=np.array(rows, dtype=np.int64),
            sequences=np.array(sequences, dtype=np.int64),
        )
