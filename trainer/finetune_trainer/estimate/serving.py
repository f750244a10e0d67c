"""GPU memory of vLLM with the merged model, as vLLM 0.32 computes it.

When it starts, vLLM takes its share of the GPU and subtracts what weights, CUDA's context and the
allocator hold, the peak of a profiling run, and the memory of its CUDA graphs
(``determine_available_memory`` in vllm/v1/worker/gpu_worker.py). The rest is the KV cache. vLLM
does not start if one request of the maximum length does not fit into it. This estimate finds that
before the training.
"""

from dataclasses import dataclass

from finetune_api.contracts.stage_request import ServingSettings
from finetune_trainer.devices.cards import Card
from finetune_trainer.estimate.memory import CONTEXT
from finetune_trainer.estimate.shape import Shape

MERGED_BYTES = 2
"""Bytes per merged weight, for float16 and bfloat16."""
BATCHED_TOKENS = 2048
"""Prefill chunk of vLLM on GPUs below 70 GiB (``max_num_batched_tokens``)."""
SEQUENCES = 256
"""Requests that vLLM samples at once and profiles with (``max_num_seqs``)."""
PIECEWISE_GRAPHS, FULL_GRAPHS = 51, 35
"""CUDA graphs of vLLM: for batches of 1, 2, 4, every 8 up to 256 and every 16 up to 512 tokens, and
complete graphs for decoding up to ``max_num_seqs`` tokens."""
GRAPH_TOKENS = 512
"""Tokens of the largest CUDA graph. The graphs share one memory pool."""
GRAPH_LAYER_BYTES = 256 * 2**10
"""Bytes of one layer in one CUDA graph: an assumption, not a measurement. A log in vLLM's pull
request 11349 shows 0.21 GiB, with the memory pool, for 35 graphs of the 16 layers of Llama 3.2 1B:
393 KiB."""
FRAGMENTATION = 150 * 2**20
"""Bytes that the allocator holds without use: the margin that vLLM itself recommends."""
LONGEST_LENGTH = 1 << 20
"""Upper limit of ``maxModelLen``."""
MARGIN = 0.9
"""Share of the free memory that a suggested length may use."""


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """Bytes on the GPU of one serving pod, by part."""

    weights: int
    cache: int
    graphs: int
    working: int
    length: int
    share: float

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.cache + self.graphs + self.working

    def limit(self, card: Card) -> float:
        """Return the bytes of the GPU that vLLM may use (``gpuMemoryUtilization``)."""
        return self.share * card.memory


def serving(shape: Shape, options: ServingSettings) -> ServingMemory | None:
    """Return the memory of serving; None if the maximum request length is not known."""
    length = options.max_model_len or shape.context
    if length is None:
        return None
    return ServingMemory(
        weights=shape.parameters * MERGED_BYTES,
        cache=cache_bytes(shape, length),
        graphs=graph_bytes(shape, count=PIECEWISE_GRAPHS + FULL_GRAPHS, tokens=GRAPH_TOKENS),
        working=working_bytes(shape, requests=SEQUENCES),
        length=length,
        share=options.gpu_memory_utilization,
    )


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Return the KV cache that one request of ``tokens`` tokens needs.

    A layer with a window keeps this window, and the tokens of one step (``max_memory_usage_bytes``
    of ``SlidingWindowSpec`` in vllm/v1/kv_cache_interface.py).
    """
    in_window = min(tokens, shape.window + BATCHED_TOKENS)
    return shape.kv_bytes * ((shape.layers - shape.windowed) * tokens + shape.windowed * in_window)


def longest(shape: Shape, room: float) -> int:
    """Return the tokens of the longest request whose KV cache needs at most ``room`` bytes."""
    vectors = max(0, int(room // shape.kv_bytes))
    reach, full = shape.window + BATCHED_TOKENS, shape.layers - shape.windowed
    if not shape.windowed or vectors < shape.layers * reach:
        return vectors // shape.layers
    return (vectors - shape.windowed * reach) // full if full else LONGEST_LENGTH


def graph_bytes(shape: Shape, *, count: int, tokens: int) -> int:
    """Return the memory of ``count`` CUDA graphs, the largest of them for ``tokens`` tokens."""
    return shape.layers * count * GRAPH_LAYER_BYTES + tokens * _token_bytes(shape)


def working_bytes(shape: Shape, *, requests: int) -> int:
    """Return the memory of vLLM itself. requests: that it samples at once and profiles with."""
    # Float32 logits of the sampler, and one sorted or normalized copy.
    sampler = requests * shape.vocabulary * 4 * 2
    return CONTEXT + FRAGMENTATION + BATCHED_TOKENS * _token_bytes(shape) + sampler


def _token_bytes(shape: Shape) -> int:
    """Return the bytes of the activations of one token."""
    return 2 * (4 * shape.hidden + 3 * shape.intermediate)


def longest_that_fits(shape: Shape, options: ServingSettings, card: Card) -> int:
    """Return the largest ``maxModelLen`` with a margin, as a multiple of 256; 0 if none fits."""
    bare = serving(shape, options.model_copy(update={"max_model_len": 1}))
    assert bare is not None
    room = bare.limit(card) - (bare.total - bare.cache)
    return longest(shape, MARGIN * room) // 256 * 256
