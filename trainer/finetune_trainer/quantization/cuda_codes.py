"""4-bit quantization on a CPU with the codes that bitsandbytes' CUDA kernels give.

The kernels compute as those for a CPU do, with two exceptions:

* They are compiled to flush subnormal numbers to zero. In a block without any other number, each
  weight is multiplied by the reciprocal of 0. The result is NaN, which is above no border between
  two codes. With NF4, all weights of such a block have the code of -1; a CPU gives them that of 0.
* With FP4, a border has fewer digits, and belongs to the code that is nearer to zero on both sides
  of zero. Only a weight below zero has the code of -0.

The codes of bfloat16 weights in NF4 do not depend on the last bit of the reciprocal, in which GPU
and CPU may differ. For float16, they do if the reciprocal errs by 0.94 of its last bit (CUDA allows
1). For FP4 and for weights in float32, some codes depend on it.
"""

from typing import Literal

import torch

from finetune_trainer.quantization import nf4

Kind = Literal["nf4", "fp4"]
SMALLEST = torch.finfo(torch.float32).tiny
FAINT = 2.0**-120
"""In blocks with larger weights, a subnormal one has the code of 0 anyway."""
FP4_LEVELS = (0.0, 0.005208333333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
"""Value of each code of a positive weight; the next 8 codes are those of the negative ones."""
FP4_CODES = (0, 1, 6, 7, 4, 5, 2, 3)
"""The codes in the order of their values."""
FP4_BORDERS = (0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333)


def round_trip(
    weight: torch.Tensor, scales: torch.Tensor | None, *, kind: Kind, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight quantized and dequantized, and its packed codes, as ``nf4.round_trip`` does.

    The last block may be incomplete.
    """
    flat, missing = weight.reshape(-1), -weight.numel() % block
    if missing:
        flat = torch.cat([flat, flat.new_zeros(missing)])
    if kind == "nf4":
        dequantized, codes = nf4.round_trip(flat, scales, block=block, quantize=quantize_nf4)
    else:
        levels = (*FP4_LEVELS, *(-level for level in FP4_LEVELS))
        dequantized, codes = nf4.round_trip(flat, scales, block=block, quantize=_fp4, levels=levels)
    count = weight.numel()
    return dequantized[:count].view(weight.shape), codes[: (count + 1) // 2]


def quantize_nf4(weight: torch.Tensor, *, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return packed codes and each block's largest magnitude, as ``nf4.quantize`` does."""
    codes, largest = nf4.quantize(weight, block=block)
    faint = largest < FAINT
    if faint.any():
        relative, largest[faint] = _relative(weight.float().view(-1, block)[faint])
        nearest = torch.bucketize(relative.nan_to_num(-1.0), nf4.borders_between(nf4.LEVELS))
        codes.view(-1, block // 2)[faint] = _packed(nearest, block)
    return codes, largest


def _fp4(weight: torch.Tensor, *, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    relative, largest = _relative(weight.float().view(-1, block))
    place = torch.bucketize(relative.abs().nan_to_num(0.0), torch.tensor(FP4_BORDERS))
    codes = torch.tensor(FP4_CODES)[place] + 8 * (relative < 0)
    return _packed(codes, block).view(-1, 1), largest


def _relative(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights relative to the largest magnitude of their block, and these magnitudes."""
    blocks = _flushed(blocks)
    largest = blocks.abs().amax(1)
    return _flushed(blocks * (1.0 / largest).view(-1, 1)), largest


def _flushed(values: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(values.abs() < SMALLEST, 0.0)


def _packed(codes: torch.Tensor, block: int) -> torch.Tensor:
    return nf4.pack(codes.view(-1).to(torch.uint8)).view(-1, block // 2)
