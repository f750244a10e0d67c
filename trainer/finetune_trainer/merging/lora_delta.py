"""Compute the merged tensor from a base tensor, in pieces of whole rows.

    W' = cast(W + scaling · B·A)     summed in float32, rounded once at the end
    W  = the base's weight; for modules that were quantized in training,
         dequantize(quantize(weight)), because the adapter was trained against that

Pieces limit the memory, and strips of them fit the CPU cache; neither changes a bit of the result.
Quantization blocks of 64 do not cross pieces. B·A is computed for at least 256 rows and 2,048
columns at a time: for smaller products a BLAS library may choose another kernel, whose sums round
differently from those of the whole product that PEFT computes.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from finetune_trainer.checkpointing.adapter_files import Adapter, LoraPair
from finetune_trainer.checkpointing.safetensors_header import FLOATS, TensorInfo
from finetune_trainer.errors import NotMergeable
from finetune_trainer.quantization.quant_state import BLOCK, DequantizedBase, Quantizer

PIECE = 1 << 19
"""Elements per piece: 2 MiB of float32."""
PRODUCT_ROWS = 256
"""Minimum number of rows of B·A per product."""
STRIP = 2048
"""Minimum number of columns of B·A per product."""
UNIT_ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


Piece = tuple[torch.Tensor, torch.Tensor | None]
"""Merged elements, flat, and the packed codes of the quantized weight, if it was quantized."""
OrderedMap = Callable[[Callable[[int], Piece], Iterable[int]], Iterator[Piece]]
"""Maps a function over items in order, as ``map`` does; threads may share the work."""


@dataclass(frozen=True, kw_only=True)
class _TensorMerge:
    """How to merge one tensor. a, b: the pair's matrices in float32; empty without a pair."""

    name: str
    rows: torch.Tensor
    step: int
    pair: LoraPair | None
    a: torch.Tensor
    b: torch.Tensor
    quantizer: Quantizer | None


class LoraMerger:
    """Merges one adapter into tensors of one base. ``applied``: names of the changed tensors."""

    def __init__(
        self,
        adapter: Adapter,
        *,
        dtype: torch.dtype,
        dequantized: DequantizedBase | None,
        ordered_map: OrderedMap = map,
    ) -> None:
        """``dequantized``: the base that was trained against; None: merge onto the original.

        adapter: without targets, the tensors are those of the base.
        """
        self._adapter = adapter
        self._weights: Any = safe_open(adapter.path, framework="pt") if adapter.targets else None
        self._dtype = dtype
        self._dequantized = dequantized
        self._ordered_map = ordered_map
        self._samples: dict[str, tuple[int, torch.Tensor]] = {}
        self.applied: set[str] = set()

    @property
    def pairs(self) -> set[str]:
        """Names of the base tensors that a LoRA pair is added to."""
        return set(self._adapter.pairs)

    def merge(self, weight: torch.Tensor, tensor: TensorInfo) -> Iterator[torch.Tensor]:
        """Yield the merged tensor in order, as flat pieces.

        Raise NotMergeable if a value does not fit ``dtype``, is not finite, or if the 4-bit codes
        differ from those of the training.
        """
        name = tensor.name
        pair = self._adapter.pairs.get(name)
        replacement = self._adapter.replacements.get(name)
        if pair is not None or replacement is not None:
            if name in self.applied:
                raise NotMergeable(
                    f"the adapter weights of {name} would be applied twice, which is a defect of "
                    "the trainer: set merge.enabled to false"
                )
            self.applied.add(name)
        if tensor.dtype not in FLOATS:
            yield weight.reshape(-1)
            return
        if replacement is not None:
            weight = self._weights.get_tensor(replacement)
        quantizer = None
        if replacement is None and self._dequantized is not None and self._dequantized.covers(name):
            quantizer = self._dequantized.quantizer(name)
        rows = weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight.reshape(1, -1)
        if pair is None and quantizer is None:
            rows = weight.reshape(-1, 1)
        part = self._prepare(name, rows, pair, quantizer)
        starts = range(0, rows.shape[0], part.step)
        for numbers, codes in self._ordered_map(
            lambda start: self._merge_piece(part, start), starts
        ):
            if quantizer is not None and codes is not None:
                quantizer.count(codes)
            yield numbers
        if quantizer is not None:
            quantizer.finish()

    def _prepare(
        self, name: str, rows: torch.Tensor, pair: LoraPair | None, quantizer: Quantizer | None
    ) -> _TensorMerge:
        nothing = torch.empty(0)
        return _TensorMerge(
            name=name,
            rows=rows,
            step=rows_at_once(*rows.shape, least=1 if pair is None else PRODUCT_ROWS),
            pair=pair,
            a=nothing if pair is None else self._weights.get_tensor(pair.a).float(),
            b=nothing if pair is None else self._weights.get_tensor(pair.b).float(),
            quantizer=quantizer,
        )

    def _merge_piece(self, part: _TensorMerge, start: int) -> Piece:
        weight, codes = part.rows[start : start + part.step], None
        if part.quantizer is not None:
            block = start * weight.shape[1] // BLOCK
            weight, codes = part.quantizer.round_trip(weight, block=block)
        if part.pair is None:
            return self._cast(weight, part.name).reshape(-1), codes
        sampled = zlib.crc32(part.name.encode()) % part.rows.shape[0]
        if start <= sampled < start + part.step:
            self._samples[part.name] = (sampled, weight[sampled - start].double())
        b = part.b[start : start + part.step]
        if part.pair.magnitude is not None:
            magnitude = self._weights.get_tensor(part.pair.magnitude)[start : start + part.step]
            summed = _sum(weight, part.pair, part.a, b)
            return self._cast(_rescaled(summed, magnitude), part.name).reshape(-1), codes
        merged = torch.empty(weight.shape, dtype=self._dtype)
        for strip in _strips(weight.shape[1]):
            summed = _sum(weight[:, strip], part.pair, part.a[:, strip], b)
            merged[:, strip] = self._cast(summed, part.name)
        return merged.view(-1), codes

    def _cast(self, values: torch.Tensor, name: str) -> torch.Tensor:
        cast = values.to(self._dtype)
        # 50 times faster than isfinite on each element: a value that is not finite is the minimum
        # or maximum, or makes both NaN.
        if cast.numel() and not all(math.isfinite(extreme) for extreme in torch.aminmax(cast)):
            if torch.isfinite(values).all():
                raise NotMergeable(
                    f"the merged tensor {name} has the value {values.abs().max().item():.4g}, "
                    f"which {self._dtype} cannot represent: set merge.dtype to bfloat16"
                )
            raise NotMergeable(
                f"the merged tensor {name} would contain a value that is not finite, so the base "
                "or the adapter is damaged: to retrain, set spec.rerun to a new value"
            )
        return cast

    def check(self, name: str, merged: torch.Tensor) -> None:
        """Recompute one row of a merged tensor differently: term by term, in float64.

        merged: the tensor as read back from the written file. Raise NotMergeable on a mismatch.
        """
        row, weight = self._samples.pop(name)
        pair = self._adapter.pairs[name]
        a, b = self._weights.get_tensor(pair.a).double(), self._weights.get_tensor(pair.b).double()
        expected = weight + sum(
            (b[row, k] * pair.scaling * a[k] for k in range(a.shape[0])), torch.zeros_like(weight)
        )
        if pair.magnitude is not None:
            magnitude = self._weights.get_tensor(pair.magnitude).double()[row]
            expected *= magnitude / expected.square().sum().sqrt()
        actual = merged[row].double()
        # One rounding to the merged type, plus the error of the float32 sums before it.
        largest = expected.abs().max().item()
        allowed = UNIT_ROUNDOFF[self._dtype] * expected.abs() + largest * 2.0**-16 + 2.0**-24
        worst = (actual - expected).abs() - allowed
        if worst.max().item() > 0:
            at = int(worst.argmax())
            raise NotMergeable(
                f"the tensor {name} was merged incorrectly: row {row}, column {at} is "
                f"{actual[at].item():.6g} instead of {expected[at].item():.6g}. Check the memory "
                "and the disk of the node, or set merge.enabled to false"
            )


def _sum(weight: torch.Tensor, pair: LoraPair, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (b @ a).mul_(pair.scaling).add_(weight)


def _rescaled(summed: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Return DoRA's rows, whose direction and length are trained separately."""
    length = torch.linalg.norm(summed, dim=1)
    return summed.mul_((magnitude.float() / length).view(-1, 1))


def _strips(columns: int) -> Iterator[slice]:
    width = math.ceil(columns / max(1, columns // STRIP))
    for left in range(0, columns, width):
        yield slice(left, left + width)


def rows_at_once(rows: int, columns: int, *, least: int = 1) -> int:
    """Return the number of rows per piece.

    Each piece ends at a quantization block. All pieces have similar sizes, so that none is much
    smaller than ``least``.
    """
    aligned = BLOCK // math.gcd(columns, BLOCK)
    wanted = max(least, PIECE // columns, 1)
    pieces = max(1, rows // wanted)
    return min(rows, math.ceil(rows / pieces / aligned) * aligned)
