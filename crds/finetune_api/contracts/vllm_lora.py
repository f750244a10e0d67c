"""What vLLM reserves for adapters: the operator sets it, and the estimate computes its memory."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``--max-lora-rank`` (vLLM 0.32.0, ``vllm/config/lora.py``)."""
ENDPOINT_REQUESTS = 64
"""Requests that the vLLM of a shared endpoint processes at once. All others wait in the gate, which
is fair; a queue in vLLM would not be."""


def reserved_rank(r: int) -> int:
    """Return the smallest value of ``--max-lora-rank`` that is at least ``r``."""
    return next(rank for rank in RANKS if rank >= r)


def slots(max_active: int) -> int:
    """Return ``--max-loras`` of an endpoint.

    One more than the models need, for the adapter with which the base answers.
    """
    return max_active + 1


def kept(max_adapters: int) -> int:
    """Return ``--max-cpu-loras`` of an endpoint.

    During a rollout, each model can have two adapters; one more is that of the base.
    """
    return 2 * max_adapters + 1
