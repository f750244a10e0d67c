"""GPU memory that vLLM needs for the merged model: weights, one longest request, its own working.

vLLM refuses to start where the cache cannot hold one request of the longest length within its share
of the card. That is found out here, before anything is trained.
"""

from dataclasses import dataclass

from finetune_trainer.estimate.memory import CONTEXT
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.runtime.cards import Card

MERGED_BYTES = 2
"""Bytes a merged weight: float16 and bfloat16 alike."""
BATCHED_TOKENS = 2048
"""vLLM's prefill chunk on cards below 70 GiB (``max_num_batched_tokens``)."""
SEQUENCES = 256
"""Requests that vLLM samples at once (``max_num_seqs``); it profiles with that many."""


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How the model is going to be served. ``max_model_len`` is None for the model's own."""

    max_model_len: int | None
    share: float


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """Bytes of one serving pod's card."""

    weights: int
    cache: int
    working: int
    length: int
    share: float

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.cache + self.working

    def limit(self, card: Card) -> float:
        """Bytes of the card that vLLM may take."""
        return self.share * card.memory


def serving(shape: Shape, options: ServingOptions) -> ServingMemory | None:
    """Return what serving takes; None where the longest request's length is not known."""
    length = options.max_model_len or shape.context
    if length is None:
        return None
    activations = BATCHED_TOKENS * 2 * (4 * shape.hidden + 3 * shape.intermediate)
    # The sampler's float32 logits and one sorted or normalised copy of them.
    sampler = SEQUENCES * shape.vocabulary * 4 * 2
    return ServingMemory(
        weights=shape.parameters * MERGED_BYTES,
        cache=shape.kv_bytes(length),
        working=CONTEXT + activations + sampler,
        length=length,
        share=options.share,
    )


def longest_that_fits(shape: Shape, options: ServingOptions, card: Card) -> int:
    """Return the largest ``maxModelLen`` that the card can serve, in whole 256s; 0 for none."""
    bare = serving(shape, ServingOptions(max_model_len=1, share=options.share))
    assert bare is not None
    room = bare.limit(card) - bare.weights - bare.working
    return max(0, int(room // shape.kv_bytes(256)) * 256)
