"""PyTorch's FlashAttention-2 for rows of any length, on a CPU: each row alone, with SDPA.

PyTorch has the operation for CUDA only. Measurements and tests install this stand-in, so that the
trainer's use of the operation (borders, windows, groups of heads) runs without a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention


def install() -> None:
    """Replace the operation in this process."""
    varlen.varlen_attn = attend


@contextmanager
def installed() -> Iterator[None]:
    """Replace the operation until the end of the block."""
    replaced = varlen.varlen_attn
    install()
    try:
        yield
    finally:
        varlen.varlen_attn = replaced


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    *_: Any,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """Return the attention of all rows, like ``varlen_attn``; shapes (tokens, heads, head_dim)."""
    rows = []
    for start, end in itertools.pairwise(borders.tolist()):
        q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        visible = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        if window_size[0] >= 0:
            visible = visible.triu(-window_size[0])
        attention = scaled_dot_product_attention(
            q, k, v, attn_mask=visible, scale=scale, enable_gqa=enable_gqa
        )
        rows.append(attention[0].transpose(0, 1))
    return torch.cat(rows)
