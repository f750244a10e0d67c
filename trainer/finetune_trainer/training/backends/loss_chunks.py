"""The chunks of TRL's loss on a CPU.

TRL computes the logits of whole chunks of 256 tokens, so that a GPU sees few shapes. A batch of the
quickstart has 73 tokens that contribute to the loss. On a CPU, the rows that fill its chunk would
take a sixth of the step, and most of it for a model of two layers.
"""

import functools
from typing import Any

from trl.trainer import sft_trainer

from finetune_trainer.devices.capabilities import Device

IGNORED = -100
"""Label of a token that does not contribute to the loss."""


def fit(device: Device) -> None:
    """On a CPU, compute no more logits than the loss needs. It stays the sum of the same terms."""
    if not device.cuda:
        _replace()


@functools.cache
def _replace() -> None:
    usual = sft_trainer._chunked_cross_entropy_loss

    def fitting(hidden: Any, head: Any, chunk: int, **named: Any) -> Any:
        labels = named.get("shift_labels")
        if labels is None:
            labels = named["labels"][..., 1:]
        present = int((labels != IGNORED).sum())
        return usual(hidden, head, min(chunk, max(present, 1)), **named)

    sft_trainer._chunked_cross_entropy_loss = fitting
