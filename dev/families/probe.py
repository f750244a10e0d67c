"""Measures what a model family computes correctly: causality, padding and packing, by kernel.

A model of the family with random weights processes rows of different lengths, on the CPU and in
float32: each row alone, which is the reference, all rows in one padded batch, and all rows packed
into one sequence. The rows of a batch must not influence each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from families import row_attention
from finetune_trainer.attention import packed_attention
from finetune_trainer.attention.kernels import EAGER, SDPA, VARLEN

LENGTHS = (13, 19, 10)
"""Lengths of the rows. Sliding windows and chunks of a tiny model should be shorter."""
TOLERANCE = 1e-4
"""Largest difference of logits that counts as rounding, relative to the largest logit."""
EFFECT = 1e-2
"""Least relative difference that an error must cause; otherwise it could remain unnoticed."""
UNEQUAL = "the logits differ"
Build = Callable[[str], Any]
"""Returns the model for an attention kernel. All its models have the same structure."""


class Insensitive(Exception):
    """An error would not change the logits of this model, so nothing can be measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one model computes. The reason is empty where the logits equal the reference.

    padded, packed: the reason by kernel.
    """

    causal: bool
    padded: dict[str, str] = field(default_factory=dict)
    packed: dict[str, str] = field(default_factory=dict)


@row_attention.installed()
def measure(build: Build, *, vocabulary: int) -> Measured:
    """Measure a family with one model for each kernel. Raises Insensitive.

    vocabulary: the rows contain tokens from 3 on, below this number.
    """
    packed_attention.register()
    rows = _rows(vocabulary)
    reference = build(EAGER)
    randomize(reference)
    state = reference.state_dict()
    alone = [_logits(reference, {"input_ids": row[None]})[0] for row in rows]
    scale = float(max(row_logits.abs().max() for row_logits in alone))
    _require_effect(reference, rows, alone, scale)
    changed = rows[1].clone()
    changed[-4:] = _others(changed[-4:], vocabulary)
    moved = _logits(reference, {"input_ids": changed[None]})[0]
    causal = _difference(moved[:-4], alone[1][:-4]) <= TOLERANCE * scale
    padded, packed = {}, {}
    for kernel in (VARLEN, SDPA, EAGER):
        try:
            model = build(kernel)
            model.load_state_dict(state)
        except Exception as error:
            padded[kernel] = packed[kernel] = _reason(error)
            continue
        for batch, reasons in ((_padded(rows), padded), (_packed(rows), packed)):
            try:
                logits = _logits(model, _with_borders(batch) if kernel == VARLEN else batch)
            except Exception as error:
                reasons[kernel] = _reason(error)
                continue
            parts = _parts_of(logits, rows)
            worst = max(_difference(*pair) for pair in zip(parts, alone, strict=True))
            # Not "worst > …", which is false for NaN.
            reasons[kernel] = "" if worst <= TOLERANCE * scale else UNEQUAL
    return Measured(causal=causal, padded=padded, packed=packed)


def randomize(model: Any) -> None:
    """Set random weights with which each token has a strong effect on later ones."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)


def _require_effect(
    model: Any, rows: list[torch.Tensor], alone: list[torch.Tensor], scale: float
) -> None:
    """Raise Insensitive if an error would not change the logits: if rows may see each other."""
    if not 0 < scale < float("inf"):
        raise Insensitive(f"the largest logit is {scale}")
    together = torch.cat(rows)[None]
    connected = _logits(model, {"input_ids": together})
    start = 0
    for number, row in enumerate(rows):
        part = connected[0, start : start + len(row)]
        start += len(row)
        if number and not _difference(part, alone[number]) > EFFECT * scale:
            raise Insensitive(f"row {number} does not depend on the rows before")


def _rows(vocabulary: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, vocabulary, (length,), generator=generator) for length in LENGTHS]


def _others(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    return 3 + (tokens - 3 + 7) % (vocabulary - 3)


def _padded(rows: list[torch.Tensor]) -> dict[str, Any]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.stack(
            [torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows]
        ),
        "attention_mask": torch.stack([(torch.arange(longest) < len(row)).long() for row in rows]),
    }


def _packed(rows: list[torch.Tensor]) -> dict[str, Any]:
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
    }


def _with_borders(batch: dict[str, Any]) -> dict[str, Any]:
    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return batch

    return packed_attention.with_borders(collate)([])


def _parts_of(logits: torch.Tensor, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    if len(logits) == 1:
        return list(logits[0].split([len(row) for row in rows]))
    return [row_logits[: len(row)] for row_logits, row in zip(logits, rows, strict=True)]


def _logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    # As in training: some families compute otherwise in an evaluation.
    model.train()
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]
