"""Quantize a weight without a training, and record it as a training on the same device does.

The codes follow from the weight. The scales of double quantization are those of the CPU: their last
bits may differ from those of a GPU (``quant_state``).
"""

import hashlib
from collections.abc import Iterable

import torch

from finetune_api.v1alpha1.training.advanced import Quantization
from finetune_trainer.quantization import cuda_codes, nf4
from finetune_trainer.quantization.quant_state import (
    BLOCK,
    NESTED,
    NESTED_BLOCK,
    QuantizationRecord,
)


def record_weight(
    module: str, weight: torch.Tensor, quantization: Quantization, *, by_cuda: bool
) -> QuantizationRecord:
    """Return the digest of the codes of a weight, and its scales.

    weight: on the CPU. quantization: of the type nf4. by_cuda: whether to give the codes of a GPU.
    """
    quantize = cuda_codes.quantize_nf4 if by_cuda else nf4.quantize
    flat = weight.reshape(-1)
    digest, scales = hashlib.sha256(), []
    for piece in flat.split(nf4.CHUNK):
        numbers = piece.to(getattr(torch, quantization.compute_dtype))
        missing = -numbers.numel() % BLOCK
        if missing:
            numbers = torch.cat([numbers, numbers.new_zeros(missing)])
        codes, largest = quantize(numbers, block=BLOCK)
        # Two codes share a byte.
        digest.update(codes[: (piece.numel() + 1) // 2].contiguous().numpy().tobytes())
        scales.append(largest)
    return QuantizationRecord(
        digests={module: digest.hexdigest()},
        scales=_nested(module, torch.cat(scales)) if quantization.double_quant else {},
    )


def _nested(module: str, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the scales of the blocks as double quantization stores them."""
    from bitsandbytes.functional import quantize_blockwise

    offset = scales.mean()
    codes, state = quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
    parts = (codes, state.absmax, state.code, offset)
    return {f"{module}.{part}": tensor for part, tensor in zip(NESTED, parts, strict=True)}


def together(records: Iterable[QuantizationRecord]) -> QuantizationRecord:
    """Return the record of several weights."""
    digests: dict[str, str] = {}
    scales: dict[str, torch.Tensor] = {}
    for record in records:
        digests |= record.digests
        scales |= record.scales
    return QuantizationRecord(digests=digests, scales=scales)
