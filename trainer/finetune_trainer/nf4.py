"""NF4 codes on a CPU, bit for bit those of bitsandbytes 0.50, several times faster.

A code says between which two of 15 borders a weight lies, relative to its block's largest.
bitsandbytes searches them for each weight (16 ns). Here a table of 256 cells names the one border
that is near, and one comparison with it decides (2 ns): cells are far narrower than the distance of
two borders, so that it never matters into which of two cells rounding puts a number.
"""

from dataclasses import dataclass
from functools import cache

import torch

CELLS = 256
CHUNK = 1 << 18
"""Weights at a time: what is computed from them stays in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """For each cell: the border next to it (float32), and how many borders are below that one."""

    border: torch.Tensor
    below: torch.Tensor


def quantize(weight: torch.Tensor, *, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the packed codes (uint8, two a byte) and each block's largest magnitude (float32).

    weight: on the CPU, of any floating type and shape, a whole number of blocks.
    """
    flat = weight.reshape(-1)
    packed = torch.empty(flat.numel() // 2, dtype=torch.uint8)
    largest = torch.empty(flat.numel() // block)
    table = _table()
    for start in range(0, flat.numel(), CHUNK):
        blocks = flat[start : start + CHUNK].float().view(-1, block)
        absmax = blocks.abs().amax(1)
        largest[start // block :][: absmax.numel()] = absmax
        relative = (blocks * (1.0 / absmax.clamp(min=1e-38)).view(-1, 1)).view(-1)
        # A weight that is not finite lands anywhere; it is found when it is written.
        cell = ((relative + 1) * (CELLS / 2)).int().clamp_(0, CELLS - 1)
        codes = table.below.index_select(0, cell)
        codes += relative > table.border.index_select(0, cell)
        torch.add(codes[1::2], codes[::2], alpha=16, out=packed[start // 2 :][: codes.numel() // 2])
    return packed.unsqueeze(1), largest


@cache
def _table() -> Table:
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type("nf4", device="cpu")
    borders = (code[:-1] + code[1:]) / 2
    centres = (torch.arange(CELLS) + 0.5) / (CELLS / 2) - 1
    near = (centres.view(-1, 1) - borders).abs().argmin(1)
    return Table(border=borders[near], below=near.to(torch.uint8))
