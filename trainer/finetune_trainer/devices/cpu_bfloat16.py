"""Products of bfloat16 matrices on a CPU without instructions for bfloat16.

PyTorch emulates such a product, which takes three (AVX-512) to six times (AVX2) as long as the
product of the same matrices in float32. Most desktop processors have no such instructions.

The gradient of attention consists of such products, too; attention itself is as fast as in
float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.devices.capabilities import Device
from finetune_trainer.runtime.log import log

GRADIENT_OF_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu_backward"


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
    library.impl(GRADIENT_OF_ATTENTION, _gradient_through_float32(), "CPU", with_keyset=True)
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


def _gradient_through_float32() -> Callable[..., tuple[Tensor, ...]]:
    """Return the gradient of attention, which has no variant with ``out``."""
    usual = torch.library.get_kernel(f"aten::{GRADIENT_OF_ATTENTION}", "CPU")

    def gradient(
        keys: Any,
        change: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *rest: Any,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> tuple[Tensor, ...]:
        dtype, (output, *settings) = query.dtype, rest
        tensors = (change, query, key, value, output)
        if dtype is torch.bfloat16:
            tensors = tuple(tensor.float() for tensor in tensors)
            # The mask is added, so it has the type of the others.
            attn_mask = None if attn_mask is None else attn_mask.float()
        gradients = usual.call_boxed(keys, *tensors, *settings, attn_mask=attn_mask, scale=scale)
        return tuple(tensor.to(dtype) for tensor in gradients)

    return gradient
