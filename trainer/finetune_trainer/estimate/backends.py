"""The formula of each backend, at the versions that constraints/trainer.txt pins."""

from finetune_trainer.estimate.memory import BackendFormula, fused_layer, stock_layer
from finetune_trainer.estimate.shape import Shape

TRL_CHUNK = 256
"""Tokens whose logits TRL 1.14 holds at once (``sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE``)."""
UNSLOTH_CHUNK = 2**28
"""Bytes of logits that Unsloth needs at least: its chunks take half of what is free."""


def trl_head(shape: Shape, tokens: int) -> int:
    """Bytes of TRL's chunked loss.

    A chunk's logits in 16 bits and float32, log-softmax, entropy and their gradients; and the
    hidden states, shifted, sorted by mask, and their gradients.
    """
    return 24 * shape.vocabulary * min(TRL_CHUNK, tokens) + 5 * 2 * shape.hidden * tokens


def unsloth_head(shape: Shape, tokens: int) -> int:
    """Bytes of Unsloth's chunked loss: hidden states, their gradient, and the smallest chunk."""
    return 2 * 2 * shape.hidden * tokens + min(UNSLOTH_CHUNK, 16 * shape.vocabulary * tokens)


FORMULAS = {
    "trl": BackendFormula(name="trl", layer=stock_layer, head=trl_head, offloads=False),
    "unsloth": BackendFormula(name="unsloth", layer=fused_layer, head=unsloth_head, offloads=True),
}
EFFICIENCY = {"trl": 0.31, "unsloth": 0.48}
"""Share of the card's dense 16-bit rate that training reaches. From one published pair (Llama-2-7B,
QLoRA r 8, 4 rows of 1,024 tokens on an A100: 2,415 and 3,726 tokens a second; LLaMA-Factory's
wiki): an order of magnitude on other cards."""
