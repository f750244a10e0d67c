"""Attention over rows of any length without a mask: FlashAttention-2 as PyTorch contains it.

The stock attention of transformers builds a dense T x T mask for packed rows (T: tokens of the
micro-batch) and for padded ones (T: tokens of a row), and computes every block of it.
``varlen_attn`` receives the borders of the rows instead, so that memory grows with T and time with
the sum of the squared row lengths.

PyTorch has the operation for CUDA only; on a CPU, the trainer uses SDPA.

A model that asks for more than the operation computes, such as attention sinks or a mask of another
form, gets an error. To ignore the request would train another model, without any sign of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import varlen
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_trainer.attention.kernels import LARGEST_HEAD, VARLEN

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]

BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
UNUSED = frozenset(
    {
        # Models apply positions before the attention, and borders replace them here.
        "position_ids",
        "cache_position",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "logits_to_keep",
        "use_cache",
        # Of Liger's loss, which passes its arguments on to the model.
        "return_token_accuracy",
        "skip_logits",
        "use_token_scaling",
    }
)
"""Arguments that models pass to the attention and that do not change its result."""
COMPUTED = frozenset(
    {
        "causal_mask_function",
        "sliding_window_overlay.<locals>.inner_mask",
        "packed_sequence_mask_function.<locals>.inner_mask",
    }
)
"""The parts of transformers' mask functions that the operation computes: ``__qualname__``."""


def register() -> None:
    """Add the implementation to transformers' registry."""
    AttentionInterface.register(VARLEN, attend)
    AttentionMaskInterface.register(VARLEN, no_mask)


def no_mask(*, mask_function: Callable[..., Any], **_: Any) -> None:
    """Build no mask, as transformers' registry calls it: rows are separated by their borders.

    Raise NotImplementedError for a mask that the operation does not compute.
    """
    for name in _parts(mask_function):
        if name not in COMPUTED:
            raise NotImplementedError(f"{VARLEN} attention has no mask of the form {name}")


def _parts(mask_function: Callable[..., Any]) -> Iterator[str]:
    """Return the names of the functions whose results a mask function combines by "and"."""
    name = mask_function.__qualname__
    if name != "and_masks.<locals>.and_mask":
        yield name
        return
    for cell in mask_function.__closure__ or ():
        for part in cell.cell_contents:
            yield from _parts(part)


def with_borders(collate: Collator) -> Collator:
    """Return a collator that adds the borders of the rows to its batch, once per step.

    The names are those of transformers' keyword arguments for FlashAttention. ``collate`` flattens
    packed rows to a batch of one, with position ids that begin at 0 in each row, or pads rows on
    the right. The padding of a row counts as a row of its own, which only attends to itself.
    """

    def collated(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(examples)
        if "position_ids" in batch:
            begins = batch["position_ids"] == 0
        else:
            begins = torch.zeros_like(batch["attention_mask"], dtype=torch.bool)
            begins[:, 0] = True
            begins[:, 1:] = batch["attention_mask"].diff(dim=1) != 0
        starts = torch.nonzero(begins.reshape(-1)).reshape(-1)
        borders = torch.cat([starts, torch.tensor([begins.numel()])]).to(torch.int32)
        longest = int((borders[1:] - borders[:-1]).max())
        return {
            **batch,
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": longest,
            "max_length_k": longest,
        }

    return collated


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of packed rows, as transformers' registry calls it.

    query: (1, heads, T, head_dim), in 16 bits on CUDA; key and value: as query, with the number of
    key-value heads. The result is (1, T, heads, head_dim). A batch without borders must have no
    padding: each of its rows attends to itself.

    Raise NotImplementedError for a request that the operation does not compute.
    """
    rows, heads, length, head_dim = query.shape
    asked = {
        "mask": attention_mask is not None,
        "dropout": bool(dropout),
        "soft-capping": bool(softcap),
        "keys and values of another number or size than the queries": (
            key.shape[2:] != query.shape[2:] or value.shape != key.shape
        ),
        f"head size above {LARGEST_HEAD}": head_dim > LARGEST_HEAD,
        "attention to later tokens": not _is_causal(module, kwargs.pop("is_causal", None)),
        **{name: kwargs[name] is not None for name in kwargs.keys() - {*BORDERS, *UNUSED}},
    }
    if missing := [name for name, applies in sorted(asked.items()) if applies]:
        raise NotImplementedError(f"{VARLEN} attention has no {', '.join(missing)}")
    borders, longest = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q")
    if borders is None or longest is None:
        ends = torch.arange(0, (rows + 1) * length, length, device=query.device)
        borders, longest = ends.to(torch.int32), length
    q, k, v = (
        states.transpose(1, 2).reshape(-1, states.shape[1], head_dim)
        for states in (query, key, value)
    )
    output = varlen.varlen_attn(
        q,
        k,
        v,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        # transformers counts the token itself, FlashAttention the tokens before it.
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=heads != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output.reshape(rows, length, heads, head_dim), None


def _is_causal(module: torch.nn.Module, argument: bool | None) -> bool:
    return bool(getattr(module, "is_causal", True) if argument is None else argument)
