"""Decides whether a job fits its GPU and its volume. A refusal has figures and alternatives."""

import math
from collections.abc import Collection

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.errors import DoesNotFit, VolumeFull
from finetune_trainer.estimate import suggestions
from finetune_trainer.estimate.budget import USABLE, Data, Estimate
from finetune_trainer.estimate.memory import GIB
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.volume import disk

ALTERNATIVES = 3


def refusal(
    estimate: Estimate,
    shape: Shape,
    recipe: Training,
    data: Data,
    serving: ServingSettings | None,
    backends: Collection[str],
) -> DoesNotFit | None:
    """Return the error of a job that does not fit its GPU; None if it fits or if it is unknown.

    backends: those that can train the job, which the error may propose.
    """
    card = estimate.card
    if card is None:
        return None
    if not estimate.training_fits:
        parts = estimate.training
        alternatives = suggestions.for_training(
            shape, recipe, data, card, backends=backends, count=ALTERNATIVES
        )
        return DoesNotFit(
            f"training with micro-batch size {estimate.micro_batch} and {estimate.length} tokens "
            f"per row needs about {gib(parts.total)} of GPU memory (weights "
            f"{gib(parts.weights + parts.embeddings)}, adapter and optimizer "
            f"{gib(parts.adapter + parts.optimizer)}, activations and masks "
            f"{gib(parts.activations + parts.masks)}, loss {gib(parts.loss)}, overhead "
            f"{gib(parts.overhead)}), but {card.name} has {gib(card.memory)}: "
            + _any_of(alternatives, otherwise="use a larger GPU or a smaller model")
        )
    if not estimate.serving_fits:
        assert estimate.serving is not None
        assert serving is not None
        parts_ = estimate.serving
        alternatives = suggestions.for_serving(shape, serving, estimate, ALTERNATIVES)
        return DoesNotFit(
            f"serving needs about {gib(parts_.total)} of GPU memory (weights "
            f"{gib(parts_.weights)}, KV cache {gib(parts_.cache)} for one request with "
            f"{parts_.length} tokens, CUDA graphs {gib(parts_.graphs)}, vLLM itself "
            f"{gib(parts_.working)}), but serving.gpuMemoryUtilization {parts_.share:g} allows "
            f"only {gib(parts_.limit(card))} ({card.name} has {gib(card.memory)}): "
            + _any_of(alternatives, otherwise="")
        )
    return None


def host_refusal(estimate: Estimate, limit: int | None) -> DoesNotFit | None:
    """Return the error if the train pod has too little host memory. limit: in bytes, or None."""
    least = estimate.host - estimate.pinned
    if limit is None or least <= limit:
        return None
    return DoesNotFit(
        f"training needs about {gib(least)} of host memory, in part because Unsloth keeps "
        f"activations there (micro-batch size {estimate.micro_batch}, {estimate.length} tokens per "
        f"row), but spec.resources.train.limits.memory is {gib(limit)}: set this limit to at least "
        f"{math.ceil(estimate.host / GIB)}Gi, lower training.advanced.microBatchSize, or set "
        "training.advanced.backend to trl"
        if estimate.backend == "unsloth"
        else f"training needs about {gib(least)} of host memory, but "
        f"spec.resources.train.limits.memory is {gib(limit)}: set this limit to at least "
        f"{math.ceil(estimate.host / GIB)}Gi"
    )


def volume_refusal(estimate: Estimate, size: int | None) -> VolumeFull | None:
    """Return the error if a volume is too small for the whole job. size: in bytes, or None."""
    if size is None or estimate.volume <= size:
        return None
    return VolumeFull(
        f"base, checkpoints and merged model need about {disk.human(estimate.volume)} "
        f"({estimate.volume} bytes), but spec.storage.size is {disk.human(size)}: set "
        f"spec.storage.size to at least {disk.sufficient(estimate.volume)}"
    )


def warnings(estimate: Estimate) -> list[str]:
    """Return warnings about a job that is not refused."""
    messages = []
    card = estimate.card
    if card is not None and card.shared:
        messages.append(
            f"{card.name} is time-sliced: other pods can use parts of its {gib(card.memory)}, so "
            "training can run out of memory. If other pods use this GPU, select an unshared GPU "
            "with spec.placement"
        )
    if card is not None and USABLE * card.memory < estimate.training.total <= card.memory:
        messages.append(
            f"training needs about {gib(estimate.training.total)} of GPU memory, and {card.name} "
            f"has {gib(card.memory)}. Because the estimate is not exact, training can run out of "
            "memory. In this case, lower training.advanced.microBatchSize or "
            "training.sequenceLength"
        )
    return messages


def gib(size: float) -> str:
    """Return bytes as text in GiB."""
    return f"{size / GIB:.2f} GiB"


def _any_of(alternatives: list[str], *, otherwise: str) -> str:
    if not alternatives:
        return otherwise
    numbered = [f"({number}) {text}" for number, text in enumerate(alternatives, start=1)]
    return "set " + ", or ".join(numbered)
