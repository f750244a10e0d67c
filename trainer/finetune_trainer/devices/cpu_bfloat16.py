"""Products of bfloat16 matrices on a CPU without instructions for bfloat16.

PyTorch emulates such a product, which takes three (AVX-512) to six times (AVX2) as long as the
product of the same matrices in float32. Most desktop processors have no such instructions.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from finetune_trainer.devices.capabilities import Device
from finetune_trainer.runtime.log import log


def avoid_emulation(device: Device) -> None:
    """If a CPU computes and would emulate products of bfloat16 matrices, use float32 for them."""
    if not device.cuda and not is_native(torch.cpu.get_capabilities()):
        multiply_in_float32()


def is_native(capabilities: dict[str, object]) -> bool:
    """Report whether a CPU has instructions for bfloat16 (amx_bf16, avx512_bf16, bf16)."""
    return any(name.endswith("bf16") and present for name, present in capabilities.items())


@functools.cache
def multiply_in_float32() -> torch.library.Library:
    """From now on, multiply bfloat16 matrices in float32, and round each product once.

    The emulation also sums in float32, so the products differ only by the order of the sums.
    PyTorch uses the replacements as long as the returned object exists, which the cache keeps.
    """
    log("this CPU has no instructions for bfloat16: multiplying bfloat16 matrices in float32")
    library = torch.library.Library("aten", "IMPL")
    for name in ("mm", "addmm", "bmm"):
        library.impl(name, _through_float32(getattr(torch.ops.aten, name).out), "CPU")
    return library


def _through_float32(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the operation without ``out``. The variant with ``out`` is not replaced."""

    def multiply(*matrices: Tensor, **factors: float) -> Tensor:
        dtype = matrices[0].dtype
        if all(matrix.dtype is torch.bfloat16 for matrix in matrices):
            wide = [matrix.float() for matrix in matrices]
            return operation(*wide, **factors, out=torch.empty(0)).to(dtype)
        return operation(*matrices, **factors, out=torch.empty(0, dtype=dtype))

    return multiply
