"""Find tokens that the training of a base never used, from its embedding and its head.

Some bases reserve tokens: their rows of the embedding are zero, and their rows of the head are
equal. No adapter of the layers can tell these tokens apart. An example is Llama 3 8B,
which reserves the tokens of the chat template of its instruct version.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from finetune_trainer.checkpointing.safetensors_header import read_header
from finetune_trainer.models import architecture

ZERO = 1e-16
"""Largest weight of a row that was never trained; weight decay leaves values close to 0."""
EQUAL = 0.05
"""Largest distance of equal rows, as a share of their norm: they differ in their last bits."""
ROWS_AT_ONCE = 16384


def find(base: Path, used: Collection[int]) -> list[int]:
    """Return the used token ids that the training of the base never used, in ascending order.

    The list is empty for a family whose embedding or head transformers computes from other tensors.
    """
    header = read_header(base, sorted(path.name for path in base.glob("*.safetensors")))
    names = architecture.ends(base, header)
    embedding, head = (
        header.tensors[name] if (name := names[end]) else None for end in ("embedding", "head")
    )
    if embedding is None or head is None:
        return []
    zero = _zero_rows(base / embedding.file, embedding.name)
    suspects = sorted(zero.intersection(used))
    if not suspects or head is embedding:
        return suspects
    rows = {
        start + at: rows[at].float()
        for start, rows in _chunks(base / head.file, head.name)
        for at in range(len(rows))
        if start + at in zero
    }
    return [at for at in suspects if _has_equal(at, rows)]


def _has_equal(at: int, rows: Mapping[int, torch.Tensor]) -> bool:
    """Report whether a row is zero, or equal to another row."""
    allowed = float(rows[at].norm()) * EQUAL
    return allowed == 0 or any(
        float((row - rows[at]).norm()) <= allowed for other, row in rows.items() if other != at
    )


def _zero_rows(file: Path, name: str) -> set[int]:
    return {
        start + at
        for start, rows in _chunks(file, name)
        for at in torch.nonzero(rows.abs().amax(1) <= ZERO).flatten().tolist()
    }


def _chunks(file: Path, name: str) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the rows of a matrix in chunks, each with the number of its first row."""
    with safe_open(file, framework="pt") as tensors:
        matrix = tensors.get_slice(name)
        for start in range(0, matrix.get_shape()[0], ROWS_AT_ONCE):
            yield start, matrix[start : start + ROWS_AT_ONCE]
