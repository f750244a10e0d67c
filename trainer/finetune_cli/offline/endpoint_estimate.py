"""``ftj estimate`` for a FineTuneEndpoint: its memory, and how many adapters fit each GPU.

For a job with ``serving.mode: shared`` whose endpoint is not in the file, the table is that of an
endpoint with the default settings and the rank of the job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts.stage_request import EndpointSettings
from finetune_api.layering import without_nulls
from finetune_api.v1alpha1.endpoints.spec import (
    ENDPOINT_KIND,
    MOST_ADAPTERS,
    EndpointLora,
    EndpointModel,
    FineTuneEndpointSpec,
)
from finetune_api.v1alpha1.serving import SHARED
from finetune_cli.offline.job_file import SpecFile
from finetune_trainer.devices.cards import Card
from finetune_trainer.errors import DoesNotFit, InvalidSpec
from finetune_trainer.estimate import endpoint, endpoint_verdict
from finetune_trainer.estimate.endpoint import EndpointMemory
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.estimate.suggestions import PRODUCT_LABEL
from finetune_trainer.estimate.verdict import gib


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint of a file. assumed: it has default settings, because the file has none."""

    name: str
    spec: FineTuneEndpointSpec
    assumed: bool = False

    @property
    def product(self) -> str | None:
        """The GPU model in ``placement.nodeSelector``."""
        placement = self.spec.placement
        return None if placement is None else (placement.node_selector or {}).get(PRODUCT_LABEL)


@dataclass(frozen=True, kw_only=True)
class EndpointEstimate:
    """The estimate of an endpoint. adapters: card, the adapters that fit it, tokens of its cache.

    The tokens are those of the KV cache with the adapters of the spec; 0 if they do not fit.
    """

    endpoint: Endpoint
    memory: EndpointMemory
    card: Card | None
    adapters: tuple[tuple[Card, int, int], ...]
    refusal: DoesNotFit | None

    @property
    def text(self) -> str:
        """The estimate as a table."""
        return "\n".join(_lines(self))

    @property
    def facts(self) -> dict[str, Any]:
        """The estimate in bytes and tokens."""
        memory = self.memory
        return {
            "name": self.endpoint.name,
            "card": self.card.name if self.card else None,
            "servingBytes": memory.total,
            "adapterBytes": memory.slot,
            "slots": memory.slots,
            "hostBytes": memory.host,
            "length": memory.length,
            "cards": [
                {"card": card.name, "adapters": count, "cacheTokens": tokens}
                for card, count, tokens in self.adapters
            ],
        }


def of_file(documents: Sequence[dict[str, Any]], *, at: str) -> list[Endpoint]:
    """Return the endpoints of a file. Raises InvalidSpec."""
    parsed_endpoints = []
    for document in documents:
        if document.get("kind") != ENDPOINT_KIND:
            continue
        name = (document.get("metadata") or {}).get("name")
        spec = document.get("spec")
        try:
            parsed = FineTuneEndpointSpec.model_validate(
                without_nulls(spec if isinstance(spec, dict) else {}), by_name=False
            )
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidSpec(f"{at}: {ENDPOINT_KIND} {name}: {field}: {first['msg']}") from None
        parsed_endpoints.append(Endpoint(name=str(name), spec=parsed))
    return parsed_endpoints


def of_job(file: SpecFile, endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """Return the endpoint that serves a job; None if the job has serving pods of its own."""
    spec = file.resolved.spec
    reference = spec.serving.endpoint_ref
    if spec.serving.mode != SHARED or reference is None:
        return None
    written = next((candidate for candidate in endpoints if candidate.name == reference.name), None)
    return written or Endpoint(
        name=reference.name,
        spec=FineTuneEndpointSpec(
            model=EndpointModel(**dict(spec.model)),
            lora=EndpointLora(max_rank=spec.training.lora.r),
        ),
        assumed=True,
    )


def estimate(written: Endpoint, shape: Shape, card: Card | None) -> EndpointEstimate:
    """Return the estimate of an endpoint. Raises InvalidSpec. card: None if it is unknown."""
    settings = EndpointSettings.of(written.spec)
    memory = endpoint.endpoint(shape, settings)
    if memory is None:
        raise InvalidSpec(
            "the base model states no context length, so the memory of the KV cache is unknown: "
            f"set spec.maxModelLen of {ENDPOINT_KIND} {written.name}"
        )
    return EndpointEstimate(
        endpoint=written,
        memory=memory,
        card=card,
        adapters=tuple(
            (
                other,
                endpoint.most_adapters(shape, settings, other),
                max(0, memory.cached_tokens(other)) if memory.fits(other) else 0,
            )
            for other in endpoint.cards()
        ),
        refusal=endpoint_verdict.refusal(shape, settings, card),
    )


def _lines(estimated: EndpointEstimate) -> Iterator[str]:
    written, memory, card = estimated.endpoint, estimated.memory, estimated.card
    lora = written.spec.lora
    where = f"{card.name} ({gib(card.memory)})" if card else "an unknown GPU"
    source = written.spec.model.source.removeprefix("hf://")
    yield f"{ENDPOINT_KIND} {written.name}: {source} on {where}"
    if written.assumed:
        yield "(the file has no such endpoint: default settings, and the rank of the job)"
    yield ""
    yield (
        f"Serving   vLLM, maxModelLen {memory.length} tokens, {lora.max_adapters} adapters up to "
        f"rank {lora.max_rank}, of which {lora.active} generate at once"
    )
    for label, size in (
        ("base, 16 bits", memory.weights),
        (f"adapters, {memory.slots} slots of {gib(memory.slot)}", memory.slots * memory.slot),
        ("KV cache of one request of that length", memory.cache),
        ("CUDA graphs, with and without adapters", memory.graphs),
        ("CUDA, activations, sampling", memory.working),
    ):
        yield f"  {label:<46}{gib(size):>12}"
    verdict = "" if card is None else f"  of {gib(memory.limit(card))} for vLLM: "
    verdict += "" if card is None else "fits" if memory.fits(card) else "DOES NOT FIT"
    yield f"  {'total':<46}{gib(memory.total):>12}{verdict}"
    yield f"  {'host memory of loaded adapters':<46}{gib(memory.host):>12}"
    yield ""
    yield "Adapters that fit each GPU, and tokens in the KV cache with those of this endpoint"
    for other, count, tokens in estimated.adapters:
        most = f"{count}, the limit of an endpoint" if count == MOST_ADAPTERS else str(count)
        cache = f"{tokens:,} tokens" if tokens else "–"
        yield f"  {other.name:<52}{gib(other.memory):>11}  {most:<26}{cache:>18}"
