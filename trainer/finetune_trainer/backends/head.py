"""The loss of the learned tokens, with its gradient in one pass through the head.

TRL's own does the same mathematics on pieces of 256 rows, fills the last piece up, goes through the
head again in the backward pass, and makes an entropy and an accuracy that nobody here looks at.
With the short answers of instruction rows most of that is filling. The head is frozen in QLoRA, so
the gradient for its input can be made at once, while the logits are there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from trl.trainer import sft_trainer

from finetune_trainer.rendering import IGNORED


def install() -> None:
    """Let TRL's trainer compute its loss here."""
    # The forward pass that TRL gives a model looks it up by this name.
    sft_trainer._chunked_cross_entropy_loss = learned_loss


def learned_loss(
    hidden_states: torch.Tensor,
    lm_head_weight: torch.Tensor,
    chunk_size: int,
    labels: torch.Tensor | None = None,
    shift_labels: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    logit_scale: float = 1.0,
    final_logit_softcapping: float | None = None,
    lm_head_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the loss, and in the places of TRL's metrics two zeros and the number of tokens.

    Takes what TRL's function of the same purpose takes. hidden_states: (batch, length, hidden);
    labels: (batch, length), or ``shift_labels`` where each position already has the token after
    it. At most ``chunk_size`` rows of logits, in float32, are there at once.
    """
    if shift_labels is None:
        if labels is None:
            raise ValueError("a loss needs labels")
        hidden_states, shift_labels = hidden_states[:, :-1], labels[:, 1:]
    learned = shift_labels != IGNORED
    rows, targets = hidden_states[learned], shift_labels[learned]
    head = _Head(lm_head_weight.to(rows.dtype), lm_head_bias, logit_scale, final_logit_softcapping)
    total = _SummedLoss.apply(rows, targets, head, chunk_size)
    count = learned.sum()
    unknown = total.new_zeros(())
    if num_items_in_batch is None:
        num_items_in_batch = count.clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch, unknown, unknown, count


class _Head:
    """From hidden states to logits in float32, with what some families do to them."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        softcap: float | None,
    ) -> None:
        self._weight, self._bias, self._scale, self._softcap = weight, bias, scale, softcap

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        logits = (rows @ self._weight.t()).float()
        if self._bias is not None:
            logits = logits + self._bias.float()
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return logits


class _SummedLoss(torch.autograd.Function):  # type: ignore[misc]
    """The sum of the losses of rows (tokens, hidden), piece by piece."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, targets: torch.Tensor, head: _Head, chunk_size: int
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        gradient = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows), chunk_size):
            part = slice(start, start + chunk_size)
            if gradient is None:
                total += F.cross_entropy(head.logits(rows[part]), targets[part], reduction="sum")
                continue
            with torch.enable_grad():
                piece = rows[part].detach().requires_grad_()
                loss = F.cross_entropy(head.logits(piece), targets[part], reduction="sum")
            (gradient[part],) = torch.autograd.grad(loss, piece)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype), None, None, None
