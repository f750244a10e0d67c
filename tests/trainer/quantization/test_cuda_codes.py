"""Weights that a GPU has quantized are reproduced on a CPU.

No test here runs on CUDA. ``of_kernel`` states what the kernel of bitsandbytes 0.50.2 for blocks of
64 computes, as read in its source and in the machine code of the wheel: MUFU.RCP, FMUL.FTZ and
FSETP.GT.FTZ.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.errors import NotMergeable
from finetune_trainer.quantization import cuda_codes, nf4
from finetune_trainer.quantization.quant_state import DequantizedBase

SMALLEST = torch.finfo(torch.float32).tiny
MODULE = "model.layers.0.mlp.up_proj"
NF4_BORDERS = (
    -0.8480964004993439,
    -0.6106329262256622,
    -0.4599952697753906,
    -0.33967943489551544,
    -0.23460740596055984,
    -0.13791173323988914,
    -0.045525018125772476,
    0.03979014977812767,
    0.1202552504837513,
    0.2035212516784668,
    0.2920137718319893,
    0.3893125355243683,
    0.5016634166240692,
    0.6427869200706482,
    0.8614784181118011,
)
FP4_BORDERS = {
    0.00260417: 1,
    0.0859375: 6,
    0.20833333: 7,
    0.29166667: 4,
    0.4166667: 5,
    0.583333: 2,
    0.8333333: 3,
}


def of_kernel(relative: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the codes of weights relative to the largest of their block."""
    codes = torch.zeros(relative.shape, dtype=torch.int)
    if kind == "nf4":
        for code, border in enumerate(NF4_BORDERS, start=1):
            codes[relative > border] = code
        return codes
    for border, code in FP4_BORDERS.items():
        codes[relative.abs() > torch.tensor(border)] = code
    codes[relative < 0] += 8
    return codes


def flushed(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values.abs() < SMALLEST, 0.0, values)


def packed(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the packed codes of the kernel, whose last block may be incomplete."""
    values = flushed(weight.float().reshape(-1))
    values = torch.cat([values, torch.zeros(-values.numel() % 64)]).view(-1, 64)
    relative = flushed(values * (1.0 / values.abs().amax(1)).view(-1, 1))
    codes = of_kernel(relative, kind).view(-1)
    both = (codes[::2] * 16 + codes[1::2]).to(torch.uint8).unsqueeze(1)
    return both[: (weight.numel() + 1) // 2]


def unpacked(codes: torch.Tensor) -> torch.Tensor:
    return torch.stack([codes >> 4, codes & 15], -1).view(-1).int()


def pairs(bits: int, largest: int) -> torch.Tensor:
    """Return a block per 63 weights below ``largest``, for all mantissas, signs and exponents."""
    mantissas = torch.arange(2**bits, 2 ** (bits + 1)).float()
    values = torch.cat([mantissas * 2.0**-down for down in range(10)])
    values = values[values <= largest]
    values = torch.cat([values, -values, torch.zeros(-2 * values.numel() % 63)]).view(-1, 63)
    return torch.cat([torch.full((len(values), 1), float(largest)), values], 1)


def reciprocals(largest: int, ulps: float) -> list[torch.Tensor]:
    """Return the float32 values whose distance from the exact reciprocal is at most ``ulps``."""
    nearest = 1.0 / torch.tensor(float(largest))
    around = [torch.nextafter(nearest, torch.tensor(end)) for end in (0.0, 1.0)]
    step = float(around[1] - nearest)
    found = [each for each in around if abs(float(each) - 1 / largest) <= ulps * step]
    return [nearest, *found]


@pytest.mark.parametrize(
    ("dtype", "bits", "ulps"),
    [(torch.bfloat16, 7, 1.0), (torch.float16, 10, 0.9)],
    ids=["bfloat16", "float16"],
)
def test_nf4_codes_do_not_depend_on_the_last_bit_of_the_reciprocal(
    dtype: torch.dtype, bits: int, ulps: float
) -> None:
    """CUDA documents an error of 1 ulp. A power of two as a factor changes no mantissa."""
    several = 0
    for largest in range(2**bits, 2 ** (bits + 1)):
        weight = pairs(bits, largest)
        assert torch.equal(weight.to(dtype).float(), weight), "exact in this type"
        codes = unpacked(nf4.quantize(weight.to(dtype), block=64)[0])
        for reciprocal in reciprocals(largest, ulps):
            assert torch.equal(of_kernel(weight * reciprocal, "nf4").view(-1), codes)
            several += 1
    assert several > 2**bits


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_codes_are_those_of_the_kernel(kind: Literal["nf4", "fp4"], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    weight = torch.randn(96, 1024).to(dtype) * 0.02
    weight[0] = 0
    weight[1] *= 1e-4
    weight[2, ::2] = 0
    weight[3] = -0.0
    if dtype != torch.float16:
        weight[4] *= 1e-37
        weight[5] *= 1e-38
        weight[6] *= 5e-36
        weight[7, 1:] *= 1e-37
    found = cuda_codes.round_trip(weight, None, kind=kind, block=64)
    assert torch.equal(found[1], packed(weight, kind))
    # bitsandbytes' CPU kernels round subnormal results differently.
    usual = [*range(4), *range(8, len(weight))]
    scales = weight[usual].float().view(-1, 64).abs().amax(1)
    codes = found[1].view(len(weight), -1)[usual].view(-1, 1)
    assert torch.equal(found[0][usual], dequantized(codes, scales, weight[usual], kind))


def dequantized(
    codes: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, kind: str
) -> torch.Tensor:
    state = quantize_4bit(weight, blocksize=64, quant_type=kind)[1]
    state.absmax = scales
    return dequantize_4bit(codes, state)


def test_all_fp4_codes_are_those_of_the_kernel() -> None:
    for largest in range(128, 256):
        weight = pairs(7, largest).to(torch.bfloat16)
        found = cuda_codes.round_trip(weight, None, kind="fp4", block=64)[1]
        assert torch.equal(found, packed(weight, "fp4"))


def test_zeros_have_the_codes_of_the_device() -> None:
    zeros = torch.zeros(64, dtype=torch.bfloat16)
    assert set(nf4.quantize(zeros, block=64)[0].view(-1).tolist()) == {0x77}
    assert set(quantize_4bit(zeros, blocksize=64, quant_type="nf4")[0].view(-1).tolist()) == {0x77}
    for kind in ("nf4", "fp4"):
        codes = cuda_codes.round_trip(zeros, None, kind=kind, block=64)[1]
        assert set(codes.view(-1).tolist()) == {0}


def base(facts: dict[str, Any], codes: torch.Tensor, kind: str) -> DequantizedBase:
    digest = hashlib.sha256(bytes(codes.view(-1).tolist())).hexdigest()
    quantization = {"type": kind, "doubleQuant": False, "computeDtype": "bfloat16"}
    known = {"quantizedModules": {MODULE: digest}, "quantization": quantization}
    return DequantizedBase(Manifest(kind="", key="", files=(), facts=known | facts), Path())


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("columns", [256, 100], ids=["whole-blocks", "incomplete-block"])
def test_base_is_reproduced_as_its_device_quantized_it(kind: str, columns: int) -> None:
    torch.manual_seed(4)
    weight = torch.randn(5, columns, dtype=torch.bfloat16) * 0.02
    weight[1:3] = 0
    on_cpu = quantize_4bit(weight, blocksize=64, quant_type=kind)[0]
    on_gpu = packed(weight, kind)
    assert not torch.equal(on_cpu, on_gpu)
    tensor = f"{MODULE}.weight"
    for facts, codes, others in (
        ({}, on_cpu, on_gpu),
        ({"device": "cpu"}, on_cpu, on_gpu),
        ({"device": "NVIDIA A10G"}, on_gpu, on_cpu),
    ):
        made = base(facts, codes, kind).weight(tensor, weight)
        assert made.shape == weight.shape
        assert made.dtype == weight.dtype
        assert float((made - weight).abs().max()) < 0.02
        assert not made[2, -64:].any()
        with pytest.raises(NotMergeable, match=f"the 4-bit codes of {MODULE} differ"):
            base(facts, others, kind).weight(tensor, weight)
