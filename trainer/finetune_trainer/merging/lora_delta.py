"""A base tensor in, the merged tensor out, in pieces of whole rows.

    W' = cast(W + scaling · B·A)            the sum in float32, one rounding at its end
    W  = the base's weight, or dequantised(4-bit codes of the weight), which is what the adapter was
         trained against, for exactly the modules that were quantised in training

Pieces keep memory small, and strips of them in the processor's cache; they do not change a bit of
the result. A block of 64 does not reach beyond a piece. B·A is cut into pieces of at least 256 rows
and 2,048 columns: for fewer, a library may choose another kernel, whose sums are rounded otherwise
than those of the whole product, which is what PEFT computes.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from finetune_trainer.checkpointing.adapter_files import Adapter, Pair
from finetune_trainer.checkpointing.safetensors_header import FLOATS, TensorInfo
from finetune_trainer.errors import NotMergeable
from finetune_trainer.quantization.record import BLOCK, Quantizer, RoundedBase

PIECE = 1 << 19
"""Numbers at a time: 2 MiB of float32."""
PRODUCT_ROWS = 256
"""Rows of B·A that are computed at once, at least."""
STRIP = 2048
"""Columns of B·A that are computed at once, at least."""
UNIT_ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


Piece = tuple[torch.Tensor, torch.Tensor | None]
"""Merged numbers, flat, and the packed codes of what they were before, if that was quantised."""
Spread = Callable[[Callable[[int], Piece], Iterable[int]], Iterator[Piece]]
"""Maps in order, as ``map`` does; threads may share the work."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens to one tensor. a and b are a pair's matrices in float32, and there with it."""

    name: str
    rows: torch.Tensor
    step: int
    pair: Pair | None
    a: torch.Tensor
    b: torch.Tensor
    quantizer: Quantizer | None


class Folder:
    """Folds one adapter into tensors of one base; ``applied`` has the names of those it changed."""

    def __init__(
        self,
        adapter: Adapter,
        *,
        dtype: torch.dtype,
        rounded: RoundedBase | None,
        spread: Spread = map,
    ) -> None:
        """``rounded`` is the base that was trained against; None merges onto the published one."""
        self._adapter = adapter
        self._weights: Any = safe_open(adapter.path, framework="pt")
        self._dtype = dtype
        self._rounded = rounded
        self._spread = spread
        self._samples: dict[str, tuple[int, torch.Tensor]] = {}
        self.applied: set[str] = set()

    @property
    def pairs(self) -> set[str]:
        """Names of the base tensors that a pair is added to."""
        return set(self._adapter.pairs)

    def fold(self, weight: torch.Tensor, tensor: TensorInfo) -> Iterator[torch.Tensor]:
        """Yield the merged tensor's numbers, flat and in order."""
        name = tensor.name
        pair = self._adapter.pairs.get(name)
        replacement = self._adapter.replacements.get(name)
        if pair is not None or replacement is not None:
            if name in self.applied:
                raise NotMergeable(f"{name} would get its adapter pair twice")
            self.applied.add(name)
        if tensor.dtype not in FLOATS:
            yield weight.reshape(-1)
            return
        if replacement is not None:
            weight = self._weights.get_tensor(replacement)
        quantizer = None
        if replacement is None and self._rounded is not None and self._rounded.covers(name):
            quantizer = self._rounded.quantizer(name)
        rows = weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight.reshape(1, -1)
        if pair is None and quantizer is None:
            rows = weight.reshape(-1, 1)
        change = self._change(name, rows, pair, quantizer)
        starts = range(0, rows.shape[0], change.step)
        for numbers, codes in self._spread(lambda start: self._piece(change, start), starts):
            if quantizer is not None and codes is not None:
                quantizer.count(codes)
            yield numbers
        if quantizer is not None:
            quantizer.finish()

    def _change(
        self, name: str, rows: torch.Tensor, pair: Pair | None, quantizer: Quantizer | None
    ) -> Change:
        nothing = torch.empty(0)
        return Change(
            name=name,
            rows=rows,
            step=rows_at_once(*rows.shape, least=1 if pair is None else PRODUCT_ROWS),
            pair=pair,
            a=nothing if pair is None else self._weights.get_tensor(pair.a).float(),
            b=nothing if pair is None else self._weights.get_tensor(pair.b).float(),
            quantizer=quantizer,
        )

    def _piece(self, change: Change, start: int) -> Piece:
        weight, codes = change.rows[start : start + change.step], None
        if change.quantizer is not None:
            block = start * weight.shape[1] // BLOCK
            weight, codes = change.quantizer.round_trip(weight, block=block)
        if change.pair is None:
            return self._cast(weight, change.name).reshape(-1), codes
        sampled = zlib.crc32(change.name.encode()) % change.rows.shape[0]
        if start <= sampled < start + change.step:
            self._samples[change.name] = (sampled, weight[sampled - start].double())
        b = change.b[start : start + change.step]
        if change.pair.magnitude is not None:
            magnitude = self._weights.get_tensor(change.pair.magnitude)[start : start + change.step]
            summed = _sum(weight, change.pair, change.a, b)
            return self._cast(_rescaled(summed, magnitude), change.name).reshape(-1), codes
        merged = torch.empty(weight.shape, dtype=self._dtype)
        for strip in _strips(weight.shape[1]):
            summed = _sum(weight[:, strip], change.pair, change.a[:, strip], b)
            merged[:, strip] = self._cast(summed, change.name)
        return merged.view(-1), codes

    def _cast(self, values: torch.Tensor, name: str) -> torch.Tensor:
        cast = values.to(self._dtype)
        # Fifty times faster than asking each number: what is not finite is one of these, or makes
        # both NaN.
        if cast.numel() and not all(math.isfinite(each) for each in torch.aminmax(cast)):
            if torch.isfinite(values).all():
                raise NotMergeable(
                    f"{name} reaches {values.abs().max().item():.4g}, which {self._dtype} "
                    "cannot hold: set merge.dtype to bfloat16"
                )
            raise NotMergeable(f"{name} is not finite: base or adapter is damaged")
        return cast

    def check(self, name: str, merged: torch.Tensor) -> None:
        """Recompute one row of a pair's tensor another way: term by term, in float64.

        merged: the tensor as it was written. Raises NotMergeable.
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
        found = merged[row].double()
        # One rounding to the merged type, and the float32 sums that went before it.
        largest = expected.abs().max().item()
        allowed = UNIT_ROUNDOFF[self._dtype] * expected.abs() + largest * 2.0**-16 + 2.0**-24
        worst = (found - expected).abs() - allowed
        if worst.max().item() > 0:
            at = int(worst.argmax())
            raise NotMergeable(
                f"{name} was merged wrongly: row {row} has {found[at].item():.6g} at {at} instead "
                f"of {expected[at].item():.6g}"
            )


def _sum(weight: torch.Tensor, pair: Pair, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (b @ a).mul_(pair.scaling).add_(weight)


def _rescaled(summed: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Return DoRA's rows: their direction was trained apart from their length."""
    length = torch.linalg.norm(summed, dim=1)
    return summed.mul_((magnitude.float() / length).view(-1, 1))


def _strips(columns: int) -> Iterator[slice]:
    width = math.ceil(columns / max(1, columns // STRIP))
    for left in range(0, columns, width):
        yield slice(left, left + width)


def rows_at_once(rows: int, columns: int, *, least: int = 1) -> int:
    """Return how many rows make a piece.

    Each ends at the border of a quantisation block; all have about as many rows, so that none is
    much smaller than ``least``.
    """
    aligned = BLOCK // math.gcd(columns, BLOCK)
    wanted = max(least, PIECE // columns, 1)
    pieces = max(1, rows // wanted)
    return min(rows, math.ceil(rows / pieces / aligned) * aligned)
