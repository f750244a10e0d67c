"""A weight is recorded without a training as a training records it."""

import hashlib
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import quantize_4bit

from finetune_api.v1alpha1.training.advanced import Quantization
from finetune_trainer.checkpointing.manifest import Manifest
from finetune_trainer.quantization.quant_state import NESTED, DequantizedBase
from finetune_trainer.quantization.record_weight import record_weight, together

MODULE = "model.layers.0.mlp.up_proj"
SHAPES = [(64, 64), (256, 2048), (513, 1024), (3, 50)]
"""One is larger than a chunk, and one does not consist of whole blocks."""


def weight(shape: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    made.view(-1)[:64] = 0
    made.view(-1)[0] = 1e-39
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_and_scales_are_those_of_bitsandbytes(shape: tuple[int, int]) -> None:
    made = weight(shape)
    codes, state = quantize_4bit(made, blocksize=64, quant_type="nf4", compress_statistics=True)
    found = record_weight(MODULE, made, Quantization(), by_cuda=False)
    assert found.digests == {MODULE: hashlib.sha256(codes.numpy().tobytes()).hexdigest()}
    expected = (state.absmax, state.state2.absmax, state.state2.code, state.offset)
    for part, tensor in zip(NESTED, expected, strict=True):
        assert torch.equal(found.scales[f"{MODULE}.{part}"], tensor), part


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_merge_reproduces_a_recorded_weight(
    tmp_path: Path, shape: tuple[int, int], dtype: torch.dtype, device: str
) -> None:
    made, quantization = weight(shape, dtype), Quantization()
    record = together([record_weight(MODULE, made, quantization, by_cuda=device == "cuda")])
    record.save(tmp_path)
    facts = {
        "quantizedModules": dict(record.digests),
        "quantization": quantization.model_dump(mode="json", by_alias=True),
        "device": device,
    }
    base = DequantizedBase(Manifest(kind="adapter", key="k", files=(), facts=facts), tmp_path)
    found = base.weight(f"{MODULE}.weight", made)
    # Half of the largest distance between two codes is 0.152 of the largest weight of a block.
    assert (found.float() - made.float()).abs().max() < 0.17 * made.float().abs().max()


def test_a_gpu_gives_other_codes_to_a_block_of_subnormal_numbers() -> None:
    made = weight((64, 64))
    digests = [
        record_weight(MODULE, made, Quantization(), by_cuda=each).digests for each in (False, True)
    ]
    assert digests[0] != digests[1]
