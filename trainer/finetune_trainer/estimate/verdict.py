"""Does it fit? A refusal has the numbers and the ways out."""

from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import DoesNotFit
from finetune_trainer.estimate import suggestions
from finetune_trainer.estimate.budget import USABLE, Data, Estimate
from finetune_trainer.estimate.memory import GIB
from finetune_trainer.estimate.serving import ServingOptions
from finetune_trainer.estimate.shape import Shape

WAYS_OUT = 3


def refusal(
    found: Estimate, shape: Shape, recipe: Training, data: Data, serving: ServingOptions | None
) -> DoesNotFit | None:
    """Return why a job cannot run on its card, or None. On an unknown card nothing is refused."""
    card = found.card
    if card is None:
        return None
    if not found.training_fits:
        parts = found.training
        ways = suggestions.for_training(shape, recipe, data, card, WAYS_OUT)
        return DoesNotFit(
            f"training needs about {gib(parts.total)} of GPU memory (weights "
            f"{gib(parts.weights + parts.embeddings)}, adapter and optimizer "
            f"{gib(parts.adapter + parts.optimizer)}, activations {gib(parts.activations)}, loss "
            f"{gib(parts.loss)}, the rest {gib(parts.overhead)}) at micro-batch "
            f"{found.micro_batch} of {found.length} tokens, {card.name} has {gib(card.memory)}: "
            + _either(ways, otherwise="use a larger card or a smaller model")
        )
    if not found.serving_fits:
        assert found.serving is not None
        assert serving is not None
        parts_ = found.serving
        ways = suggestions.for_serving(shape, serving, found, WAYS_OUT)
        return DoesNotFit(
            f"serving needs about {gib(parts_.total)} of GPU memory (weights "
            f"{gib(parts_.weights)}, key-value cache of one request of {parts_.length} tokens "
            f"{gib(parts_.cache)}, vLLM itself {gib(parts_.working)}), and may take "
            f"{gib(parts_.limit(card))} of {card.name}'s {gib(card.memory)} "
            f"(gpuMemoryUtilization {parts_.share:g}): " + _either(ways, otherwise="")
        )
    return None


def warnings(found: Estimate) -> list[str]:
    """Return what may go wrong although nothing is refused."""
    said = []
    card = found.card
    if card is not None and USABLE * card.memory < found.training.total <= card.memory:
        said.append(
            f"training is estimated at {gib(found.training.total)} of {card.name}'s "
            f"{gib(card.memory)}, which is within the estimate's error: it may run out of memory"
        )
    return said


def gib(size: float) -> str:
    """Write bytes in GiB, as cards are compared."""
    return f"{size / GIB:.2f} GiB"


def _either(ways: list[str], *, otherwise: str) -> str:
    if not ways:
        return otherwise
    numbered = [f"({number}) {words}" for number, words in enumerate(ways, start=1)]
    return "set " + ", or ".join(numbered)
