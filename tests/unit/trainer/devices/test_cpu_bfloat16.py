"""Products of bfloat16 matrices in float32, compared with float64; the gradient of attention."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from finetune_trainer.devices import cpu_bfloat16
from finetune_trainer.devices.capabilities import Device

PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "mm": lambda a, b, c: a @ b,
    "mm_of_transposed": lambda a, b, c: (b.t() @ a.t()).t(),
    "addmm": lambda a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=2),
    "linear": lambda a, b, c: torch.nn.functional.linear(a, b.t(), c),
    "bmm": lambda a, b, c: torch.bmm(a[None], b[None])[0],
}


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_native_instructions_are_those_of_the_processor(
    capabilities: dict[str, object], native: bool
) -> None:
    assert cpu_bfloat16.is_native(capabilities) is native


@pytest.mark.parametrize(
    ("cuda", "native", "replaced"),
    [(False, False, True), (False, True, False), (True, False, False)],
)
def test_products_are_replaced_only_on_a_cpu_without_native_instructions(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, native: bool, replaced: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(cpu_bfloat16, "multiply_in_float32", lambda: calls.append(True))
    cpu_bfloat16.avoid_emulation(Device(name="any", cuda=cuda))
    assert calls == ([True] if replaced else [])


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What a process with replaced products computes."""

    errors: dict[str, dict[torch.dtype, float]]
    """The largest relative error of each product and its gradients, by type."""
    refusal: str
    """The error of a product of matrices of two types."""
    attention: dict[bool, bool]
    """Whether the gradient of attention, with and without a mask, is that in float32, rounded."""
    needed: bool
    """Whether it was another one before."""


def largest_error(product: Callable[..., Tensor], dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(3)
    shapes = ((24, 300), (300, 40), (40,))
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    exact = [each.double().requires_grad_() for each in values]
    found = [each.requires_grad_() for each in values]
    expected, given = product(*exact), product(*found)
    assert given.dtype is dtype
    expected.sum().backward()
    given.sum().backward()
    pairs = [(given, expected)]
    pairs += [(a.grad, b.grad) for a, b in zip(found, exact, strict=True) if b.grad is not None]
    return max(float(((a.double() - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)


def is_rounded_once(mask: Tensor | None) -> bool:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(2, 3, 20, 16, generator=generator).bfloat16() for _ in range(4)]
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    output, sums = attention(*tensors[1:], attn_mask=mask)
    tensors.append(output)
    given = gradient(*tensors, sums, 0.0, mask is None, attn_mask=mask)
    wide = None if mask is None else mask.float()
    exact = gradient(*(each.float() for each in tensors), sums, 0.0, mask is None, attn_mask=wide)
    return all(torch.equal(a, b.bfloat16()) for a, b in zip(given, exact, strict=True))


def compute() -> Replaced:
    needed = not is_rounded_once(None)
    cpu_bfloat16.multiply_in_float32()
    refusal = ""
    try:
        torch.randn(2, 3).bfloat16() @ torch.randn(3, 2)
    except RuntimeError as error:
        refusal = str(error)
    types = (torch.bfloat16, torch.float32, torch.float64)
    return Replaced(
        errors={
            name: {dtype: largest_error(product, dtype) for dtype in types}
            for name, product in PRODUCTS.items()
        },
        refusal=refusal,
        attention={
            masked: is_rounded_once(torch.randn(2, 1, 20, 20).bfloat16() if masked else None)
            for masked in (True, False)
        },
        needed=needed,
    )


@pytest.fixture(scope="module")
def replaced() -> Replaced:
    # A process of its own: a replacement stays until the process ends.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(compute)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_gradients_are_exact_to_one_rounding(replaced: Replaced, name: str) -> None:
    errors = replaced.errors[name]
    assert errors[torch.bfloat16] < 2**-8
    assert errors[torch.float32] < 1e-5
    assert errors[torch.float64] < 1e-13


def test_product_of_two_types_is_still_an_error(replaced: Replaced) -> None:
    assert "same dtype" in replaced.refusal


def test_gradient_of_attention_is_rounded_once(replaced: Replaced) -> None:
    assert replaced.attention == {True: True, False: True}
    assert replaced.needed
