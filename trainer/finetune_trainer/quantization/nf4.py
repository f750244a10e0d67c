"""NF4 quantization on a CPU, bit-identical to bitsandbytes 0.50 and several times faster.

A code is the position of a weight among 15 borders, relative to the largest magnitude of its block.
bitsandbytes searches the borders for each weight (16 ns). Here a table of 256 cells gives the only
border nearby, and one comparison decides (2 ns): cells are much narrower than the distance between
two borders, so rounding a weight into a neighboring cell does not matter.

bitsandbytes itself is not imported: with its dependencies it takes 120 MiB and some seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Value of each code relative to the largest magnitude of its block (QLoRA, appendix E)."""
Quantize = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""A function like ``quantize``."""
CELLS = 256
CHUNK = 1 << 18
"""Weights per chunk; the intermediate results stay in the cache of a core."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """For each cell: the nearest border (float32), and the number of borders below it."""

    border: torch.Tensor
    below: torch.Tensor


def quantize(weight: torch.Tensor, *, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return packed codes (uint8, two per byte) and each block's largest magnitude (float32).

    weight: as for ``round_trip``; not chunked.
    """
    table = _table()
    blocks = weight.float().view(-1, block)
    largest = blocks.abs().amax(1)
    relative = (blocks * (1.0 / largest.clamp(min=1e-38)).view(-1, 1)).view(-1)
    # A weight that is not finite gets an arbitrary code; the merge detects it when it is written.
    cell = ((relative + 1) * (CELLS / 2)).int().clamp_(0, CELLS - 1)
    codes = table.below.index_select(0, cell)
    codes += relative > table.border.index_select(0, cell)
    return pack(codes), largest


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Return codes (uint8, flat) in pairs, one byte each."""
    return torch.add(codes[1::2], codes[::2], alpha=16).unsqueeze(1)


def round_trip(
    weight: torch.Tensor,
    scales: torch.Tensor | None,
    *,
    block: int,
    quantize: Quantize = quantize,
    levels: tuple[float, ...] = LEVELS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight quantized and dequantized, in its own type and shape, and its packed codes.

    weight: on the CPU, any floating type and shape, a whole number of blocks. scales: float32, one
    per block; None: the largest magnitude of each block. levels: value of each code.
    """
    flat = weight.reshape(-1)
    packed = torch.empty(flat.numel() // 2, 1, dtype=torch.uint8)
    dequantized = torch.empty_like(flat)
    for start in range(0, flat.numel(), CHUNK):
        codes, largest = quantize(flat[start : start + CHUNK], block=block)
        if scales is not None:
            largest = scales[start // block :][: largest.numel()]
        packed[start // 2 :][: codes.numel()] = codes
        dequantized[start : start + CHUNK] = _dequantize(codes, largest, levels, block=block)
    return dequantized.view(weight.shape), packed


def _dequantize(
    packed: torch.Tensor, scales: torch.Tensor, levels: tuple[float, ...], *, block: int
) -> torch.Tensor:
    """Return the weights (float32, flat) of packed codes, with one scale per block."""
    # Two weights at a time: each byte indexes a table of pairs.
    pairs = _pairs(levels).index_select(0, packed.view(-1).int())
    return (pairs.view(torch.float32).view(-1, block) * scales.view(-1, 1)).view(-1)


def borders_between(levels: tuple[float, ...]) -> torch.Tensor:
    """Return the border between each two adjacent codes."""
    values = torch.tensor(levels)
    return (values[:-1] + values[1:]) / 2


@cache
def _table() -> Table:
    borders = borders_between(LEVELS)
    centres = (torch.arange(CELLS) + 0.5) / (CELLS / 2) - 1
    near = (centres.view(-1, 1) - borders).abs().argmin(1)
    return Table(border=borders[near], below=near.to(torch.uint8))


@cache
def _pairs(levels: tuple[float, ...]) -> torch.Tensor:
    """Return the two values of each byte of packed codes: two float32 as one int64."""
    code, byte = torch.tensor(levels), torch.arange(256)
    return torch.stack([code[byte >> 4], code[byte & 15]], 1).view(torch.int64).view(-1)
