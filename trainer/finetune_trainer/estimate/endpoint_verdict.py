"""Decides whether a shared endpoint fits its GPU. A refusal has figures and alternatives."""

from collections.abc import Iterator

from finetune_api.contracts.stage_request import EndpointSettings
from finetune_trainer.devices.cards import Card, next_larger
from finetune_trainer.errors import DoesNotFit
from finetune_trainer.estimate import endpoint
from finetune_trainer.estimate.endpoint import EndpointMemory
from finetune_trainer.estimate.serving import MARGIN, longest
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL, SHORTEST
from finetune_trainer.estimate.verdict import gib

LENGTH_STEP = 256


def refusal(shape: Shape, settings: EndpointSettings, card: Card | None) -> DoesNotFit | None:
    """Return the error of an endpoint that does not fit its GPU; None if it fits or is unknown."""
    memory = endpoint.endpoint(shape, settings)
    if card is None or memory is None or memory.fits(card):
        return None
    alternatives = enumerate(_alternatives(shape, settings, memory, card), start=1)
    return DoesNotFit(
        f"the endpoint needs about {gib(memory.total)} of GPU memory (weights "
        f"{gib(memory.weights)}, adapters {gib(memory.slots * memory.slot)} in {memory.slots} "
        f"slots, KV cache {gib(memory.cache)} for one request with {memory.length} tokens, CUDA "
        f"graphs {gib(memory.graphs)}, vLLM itself {gib(memory.working)}), but "
        f"gpuMemoryUtilization {memory.share:g} allows only {gib(memory.limit(card))} "
        f"({card.name} has {gib(card.memory)}): set "
        + ", or ".join(f"({number}) {text}" for number, text in alternatives)
    )


def _alternatives(
    shape: Shape, settings: EndpointSettings, memory: EndpointMemory, card: Card
) -> Iterator[str]:
    """Yield changes of which each suffices, by rising cost."""
    all_active = settings.model_copy(update={"max_active": None})
    if active := endpoint.most_adapters(shape, all_active, card):
        yield f"lora.maxActive: {active}"
    room = memory.limit(card) - memory.total + memory.cache
    length = longest(shape, MARGIN * room) // LENGTH_STEP * LENGTH_STEP
    if length >= SHORTEST:
        yield f"maxModelLen: {length}"
    larger = next_larger(memory.total / memory.share)
    if larger is not None:
        yield f"placement.nodeSelector {PRODUCT_LABEL}: {larger.name} ({gib(larger.memory)})"
    yield "model.source to a smaller base, in another endpoint"
