"""The memory formula of each backend, for the versions in constraints/trainer.txt."""

from finetune_trainer.estimate.memory import BackendFormula, fused_layer, stock_layer
from finetune_trainer.estimate.shape import Shape

TRL_CHUNK = 256
"""Tokens per chunk of logits in TRL 1.14 (``sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE``)."""
UNSLOTH_CHUNK = 2**28
"""Least bytes of logits in Unsloth, whose chunks otherwise take half of the free memory."""


def trl_head(shape: Shape, tokens: int) -> int:
    """Return the bytes of TRL's chunked loss over ``tokens`` tokens.

    One chunk has logits in 16 bits and float32, log-softmax, entropy and their gradients. All
    hidden states are kept shifted and sorted by mask, with their gradients.
    """
    return 24 * shape.vocabulary * min(TRL_CHUNK, tokens) + 5 * 2 * shape.hidden * tokens


def unsloth_head(shape: Shape, tokens: int) -> int:
    """Return the bytes of Unsloth's chunked loss: hidden states, their gradient, one chunk."""
    return 2 * 2 * shape.hidden * tokens + min(UNSLOTH_CHUNK, 16 * shape.vocabulary * tokens)


FORMULAS = {
    "trl": BackendFormula(name="trl", layer=stock_layer, head=trl_head, offloads=False),
    "unsloth": BackendFormula(name="unsloth", layer=fused_layer, head=unsloth_head, offloads=True),
}
EFFICIENCY = {"trl": 0.31, "unsloth": 0.48}
"""Backend → share of the GPU's dense 16-bit FLOP rate that training reaches.

From one published pair (Llama-2-7B, QLoRA r 8, 4 rows of 1,024 tokens on an A100: 2,415 and 3,726
tokens per second; wiki of LLaMA-Factory). On other GPUs it gives the order of magnitude only."""
