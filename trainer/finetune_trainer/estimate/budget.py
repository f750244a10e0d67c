"""A job's whole bill: GPU memory of training and serving, host memory, disk, tokens and time."""

import math
from dataclasses import dataclass

from finetune_api.v1alpha1.training import Training
from finetune_trainer.estimate import memory
from finetune_trainer.estimate.backends import EFFICIENCY, FORMULAS
from finetune_trainer.estimate.memory import GIB, Memory
from finetune_trainer.estimate.serving import ServingMemory, ServingOptions, serving
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.runtime.cards import Card

USABLE = 0.9
"""Share of the card that a micro-batch may be chosen to fill: the estimate has an error."""
UNKNOWN_CARD_MICRO_BATCH = 2
CHECKPOINTS = 3
"""Two that are kept and one that is being written; early stopping keeps the best one as well."""
HOST_BASE = 3 * GIB
"""Python, PyTorch and CUDA's libraries in the train pod."""


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """What is known of the cluster. ``card`` is None for one that no label names.

    ``serving`` is None where nothing is served, ``merges`` False where nothing is merged.
    """

    card: Card | None = None
    serving: ServingOptions | None = None
    merges: bool = True


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is known of the rows. ``longest`` in tokens; ``tokens`` of one epoch, None if unknown.

    ``steps`` is None where neither rows nor ``maxSteps`` say how many there are. Tokens that are
    evaluated on take disk and host memory, but none of the time.
    """

    longest: int | None = None
    packed: bool | None = None
    sequences: int | None = None
    tokens: int | None = None
    held_out_tokens: int = 0
    steps: int | None = None

    @property
    def all_tokens(self) -> int:
        """Tokens that lie on the volume; 0 if unknown."""
        return (self.tokens or 0) + self.held_out_tokens


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The bill. Bytes and seconds; what cannot be known is None."""

    card: Card | None
    backend: str
    micro_batch: int
    accumulation: int
    length: int
    training: Memory
    serving: ServingMemory | None
    host: int
    volume: int
    tokens: int | None
    seconds: float | None

    @property
    def training_fits(self) -> bool:
        """Whether training fits; True on a card that is not known."""
        return self.card is None or self.training.total <= self.card.memory

    @property
    def serving_fits(self) -> bool:
        """Whether serving fits; True on a card that is not known."""
        if self.card is None or self.serving is None:
            return True
        return self.serving.total <= self.serving.limit(self.card)


def estimate(
    shape: Shape,
    recipe: Training,
    *,
    data: Data,
    options: EstimateOptions,
    base_bytes: int | None = None,
) -> Estimate:
    """Return a job's bill. ``base_bytes`` is what the base takes on disk, where that is known."""
    card = options.card
    formula = FORMULAS[recipe.advanced.backend]
    length = batch_length(recipe, data)
    micro = choose_micro_batch(shape, recipe, length=length, card=card)
    tokens = _tokens(recipe, data)
    rate = None if card is None or card.tflops is None else card.tflops * 1e12
    flops = None if tokens is None else tokens * flops_per_token(shape, recipe, length=length)
    efficiency = EFFICIENCY[recipe.advanced.backend]
    return Estimate(
        card=card,
        backend=formula.name,
        micro_batch=micro,
        accumulation=recipe.effective_batch_size // micro,
        length=length,
        training=memory.training(shape, recipe, formula, micro_batch=micro, length=length),
        serving=None if options.serving is None else serving(shape, options.serving),
        host=host_bytes(shape, recipe, tokens=micro * length, data=data),
        volume=volume_bytes(shape, recipe, data=data, merges=options.merges, base_bytes=base_bytes),
        tokens=tokens,
        seconds=None if rate is None or flops is None else flops / (rate * efficiency),
    )


def batch_length(recipe: Training, data: Data) -> int:
    """Tokens that a row takes in the largest batch: the sequence length, unless all are shorter."""
    full = recipe.sequence_length
    padded = recipe.advanced.pad_to_sequence_length
    packed = recipe.packing != "never" if data.packed is None else data.packed
    if padded or packed or data.longest is None:
        return full
    return min(full, data.longest)


def choose_micro_batch(shape: Shape, recipe: Training, *, length: int, card: Card | None) -> int:
    """Return the written micro-batch, or the largest that fits ``USABLE`` of the card.

    It divides the effective batch.
    """
    written = recipe.advanced.micro_batch_size
    if written is not None:
        return written
    effective = recipe.effective_batch_size
    divisors = [size for size in range(effective, 1, -1) if effective % size == 0]
    if card is None:
        return UNKNOWN_CARD_MICRO_BATCH if UNKNOWN_CARD_MICRO_BATCH in divisors else 1
    formula = FORMULAS[recipe.advanced.backend]
    for micro in divisors:
        found = memory.training(shape, recipe, formula, micro_batch=micro, length=length)
        if found.total <= USABLE * card.memory:
            return micro
    return 1


def flops_per_token(shape: Shape, recipe: Training, *, length: int) -> float:
    """Operations that a token costs: forward, gradients of the inputs, and the recomputation.

    The base's weights are frozen, so their own gradients are not computed; a trained head's are.
    """
    weights = shape.linear_parameters + shape.vocabulary * shape.hidden
    attention = 2 * shape.layers * shape.heads * shape.head_dim * length
    forward = 2 * weights + attention
    again = 1 if recipe.advanced.gradient_checkpointing else 0
    head = 2 * shape.vocabulary * shape.hidden
    own = head if "lm_head" in (recipe.lora.modules_to_save or ()) else 0
    return forward * (2 + again) + attention + own


def host_bytes(shape: Shape, recipe: Training, *, tokens: int, data: Data) -> int:
    """Host memory of the train pod, offloaded activations included."""
    offloads = FORMULAS[recipe.advanced.backend].offloads
    kept = 0
    if offloads and recipe.advanced.gradient_checkpointing:
        kept = 2 * shape.layers * shape.hidden * tokens
    return HOST_BASE + kept + 16 * data.all_tokens


def volume_bytes(
    shape: Shape, recipe: Training, *, data: Data, merges: bool, base_bytes: int | None
) -> int:
    """Disk of a job: base, tokens, checkpoints, adapter and merged model."""
    adapter = memory.trained_parameters(shape, recipe) * 4
    states = memory.optimizer_bytes(shape, recipe)
    base = 2 * shape.parameters if base_bytes is None else base_bytes
    merged = 2 * shape.parameters if merges else 0
    best = recipe.advanced.early_stopping_patience is not None
    checkpoints = (CHECKPOINTS + best) * (adapter + states)
    return int(base + 8 * data.all_tokens + checkpoints + adapter + merged)


def _tokens(recipe: Training, data: Data) -> int | None:
    """Tokens that are trained on in all, padding of a full sequence included."""
    if data.steps is None:
        return None
    rows = data.steps * recipe.effective_batch_size
    if recipe.advanced.pad_to_sequence_length:
        return rows * recipe.sequence_length
    if not data.tokens or not data.sequences:
        return None
    return math.ceil(rows * data.tokens / data.sequences)
