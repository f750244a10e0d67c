"""GPU memory of a shared endpoint: the base, and the adapters that vLLM 0.32 holds beside it.

For each module that it adapts, vLLM allocates both matrices of every slot when it starts, with the
rank of ``--max-lora-rank`` and the data type of the base (``create_lora_weights`` in
vllm/lora/layers/base_linear.py), so an adapter of a lower rank needs the same memory. All other
loaded adapters are in host memory, with their own rank (vllm/lora/lora_model.py). Each CUDA graph
is captured twice: for batches with and without adapters (``_get_lora_cases`` in
vllm/v1/cudagraph_dispatcher.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.contracts import vllm_lora
from finetune_api.contracts.stage_request import EndpointSettings
from finetune_api.v1alpha1.endpoints.spec import MOST_ADAPTERS
from finetune_trainer.devices.cards import CARDS, MIN_CAPABILITY, Card
from finetune_trainer.estimate.serving import (
    MERGED_BYTES,
    cache_bytes,
    graph_bytes,
    working_bytes,
)
from finetune_trainer.estimate.shape import Shape

LARGEST_GRAPH = 2 * vllm_lora.ENDPOINT_REQUESTS
"""Tokens of the largest CUDA graph: twice ``--max-num-seqs``."""
LORA_CASES = 2
"""CUDA graphs of each size: with adapters, and without."""


@dataclass(frozen=True, kw_only=True)
class EndpointMemory:
    """Bytes of an endpoint's pod on the GPU, by part, and on the host.

    slot: of one adapter on the GPU. host: of all adapters that vLLM keeps in host memory.
    token: of the KV cache, in all layers. length: tokens of the longest request.
    """

    weights: int
    slot: int
    slots: int
    cache: int
    graphs: int
    working: int
    host: int
    token: int
    length: int
    share: float

    @property
    def total(self) -> int:
        """Sum of all parts on the GPU."""
        return self.weights + self.slots * self.slot + self.cache + self.graphs + self.working

    def limit(self, card: Card) -> float:
        """Return the bytes of the GPU that vLLM may use (``gpuMemoryUtilization``)."""
        return self.share * card.memory

    def fits(self, card: Card) -> bool:
        """Whether the endpoint starts on a card."""
        return self.total <= self.limit(card)

    def cached_tokens(self, card: Card) -> int:
        """Return the tokens that the KV cache holds on a card; 0 if the endpoint does not fit."""
        return int((self.limit(card) - self.total + self.cache) // self.token)


def endpoint(shape: Shape, settings: EndpointSettings) -> EndpointMemory | None:
    """Return the memory of an endpoint; None if the maximum request length is not known."""
    length = settings.max_model_len or shape.context
    if length is None:
        return None
    sizes = list(_graph_sizes())
    full = sum(size <= vllm_lora.ENDPOINT_REQUESTS for size in sizes)
    return EndpointMemory(
        weights=shape.parameters * MERGED_BYTES,
        slot=adapter_bytes(shape, vllm_lora.reserved_rank(settings.max_rank)),
        slots=vllm_lora.slots(settings.max_active or settings.max_adapters),
        cache=cache_bytes(shape, length),
        graphs=graph_bytes(shape, count=LORA_CASES * (len(sizes) + full), tokens=LARGEST_GRAPH),
        working=working_bytes(shape, requests=vllm_lora.ENDPOINT_REQUESTS),
        host=vllm_lora.kept(settings.max_adapters) * adapter_bytes(shape, settings.max_rank),
        token=cache_bytes(shape, 1),
        length=length,
        share=settings.gpu_memory_utilization,
    )


def adapter_bytes(shape: Shape, rank: int) -> int:
    """Return the bytes of the matrices of one adapter of all linear layers except the head."""
    rows = sum(inputs + outputs for inputs, outputs in shape.modules.values())
    return shape.layers * rank * rows * MERGED_BYTES


def most_adapters(shape: Shape, settings: EndpointSettings, card: Card) -> int:
    """Return how many adapters an endpoint can hold on a card, of which all can generate at once.

    With ``lora.maxActive``, only so many need GPU memory, and any number up to the limit fits.
    """
    fixed = settings.max_active

    def fits(count: int) -> bool:
        active = None if fixed is None else min(fixed, count)
        changes = {"max_adapters": count, "max_active": active}
        memory = endpoint(shape, settings.model_copy(update=changes))
        return memory is not None and memory.fits(card)

    return max((count for count in range(1, MOST_ADAPTERS + 1) if fits(count)), default=0)


def cards() -> list[Card]:
    """Return the cards of a comparison by memory: of each size, the first that is supported."""
    by_memory = {
        card.memory: card
        for card in reversed(list(CARDS.values()))
        if card.capability >= MIN_CAPABILITY
    }
    return [by_memory[memory] for memory in sorted(by_memory)]


def _graph_sizes() -> Iterator[int]:
    """Yield the tokens of the CUDA graphs: 1, 2, 4, and every 8 up to the largest one."""
    yield from (1, 2, 4)
    yield from range(8, LARGEST_GRAPH + 1, 8)
