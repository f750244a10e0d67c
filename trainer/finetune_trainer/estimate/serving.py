"""GPU memory of vLLM with the merged model: weights, KV cache of one request, working memory.

vLLM does not start if the cache of one request of the maximum length does not fit its share of the
GPU. This estimate finds that before the training.
"""

from dataclasses import dataclass

from finetune_trainer.estimate.memory import CONTEXT
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.runtime.cards import Card

MERGED_BYTES = 2
"""Bytes per merged weight, for float16 and bfloat16."""
BATCHED_TOKENS = 2048
"""Prefill chunk of vLLM on GPUs below 70 GiB (``max_num_batched_tokens``)."""
SEQUENCES = 256
"""Requests that vLLM samples at once and profiles with (``max_num_seqs``)."""


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Settings of the serving pods. ``max_model_len`` None selects the context of the model."""

    max_model_len: int | None
    share: float


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """Bytes on the GPU of one serving pod, by part."""

    weights: int
    cache: int
    working: int
    length: int
    share: float

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.cache + self.working

    def limit(self, card: Card) -> float:
        """Return the bytes of the GPU that vLLM may use (``gpuMemoryUtilization``)."""
        return self.share * card.memory


def serving(shape: Shape, options: ServingOptions) -> ServingMemory | None:
    """Return the memory of serving; None if the maximum request length is not known."""
    length = options.max_model_len or shape.context
    if length is None:
        return None
    activations = BATCHED_TOKENS * 2 * (4 * shape.hidden + 3 * shape.intermediate)
    # Float32 logits of the sampler, and one sorted or normalized copy.
    sampler = SEQUENCES * shape.vocabulary * 4 * 2
    return ServingMemory(
        weights=shape.parameters * MERGED_BYTES,
        cache=shape.kv_bytes(length),
        working=CONTEXT + activations + sampler,
        length=length,
        share=options.share,
    )


def longest_that_fits(shape: Shape, options: ServingOptions, card: Card) -> int:
    """Return the largest ``maxModelLen`` that fits, as a multiple of 256; 0 if none fits."""
    bare = serving(shape, ServingOptions(max_model_len=1, share=options.share))
    assert bare is not None
    room = bare.limit(card) - bare.weights - bare.working
    return max(0, int(room // shape.kv_bytes(256)) * 256)
