"""The estimate of a job: GPU memory of training and serving, host memory, disk, tokens, time."""

import math
from dataclasses import dataclass, replace

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.attention.kernels import choose
from finetune_trainer.devices.cards import AMPERE, Card
from finetune_trainer.estimate import host, memory
from finetune_trainer.estimate.backends import EFFICIENCY, FORMULAS
from finetune_trainer.estimate.memory import Memory, Step
from finetune_trainer.estimate.serving import ServingMemory, serving
from finetune_trainer.estimate.shape import Shape

USABLE = 0.9
"""Share of the GPU memory that a chosen micro-batch may use; the rest covers estimation errors."""
UNKNOWN_CARD_MICRO_BATCH = 2
CHECKPOINTS = 3
"""Two are kept and one is being written. Early stopping also keeps the best one."""


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """The GPU and the stages to estimate.

    ``card`` is the smallest card that the pods may get, None if it is not known; ``others`` are the
    larger ones. ``serving`` is None if nothing is served, and ``merges`` is False if no merged
    model is made. ``volume`` is the size of the volume in bytes, and ``train_memory`` the memory
    limit of the train pod; they are None if not known.
    """

    card: Card | None = None
    others: tuple[Card, ...] = ()
    serving: ServingSettings | None = None
    merges: bool = True
    volume: int | None = None
    train_memory: int | None = None

    @property
    def cards(self) -> tuple[Card, ...]:
        """All known cards that the pods may get."""
        return () if self.card is None else (self.card, *self.others)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Facts about the rows; None if unknown.

    ``longest`` is the length of the longest row in tokens, ``tokens`` the number of training tokens
    of one epoch, ``steps`` the number of optimizer steps. Held-out tokens need disk and host
    memory, but no training time.
    """

    longest: int | None = None
    packed: bool | None = None
    sequences: int | None = None
    tokens: int | None = None
    held_out_tokens: int = 0
    steps: int | None = None

    @property
    def all_tokens(self) -> int:
        """Tokens on the volume; 0 if unknown."""
        return (self.tokens or 0) + self.held_out_tokens


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimate, in bytes and seconds; None if unknown.

    host: memory of the train pod. pinned: the part of it that rounds up pinned blocks, and that the
    pod does without if its limit is lower.
    """

    card: Card | None
    backend: str
    micro_batch: int
    checkpointing: bool
    accumulation: int
    length: int
    training: Memory
    serving: ServingMemory | None
    host: int
    pinned: int
    volume: int
    tokens: int | None
    seconds: float | None

    @property
    def training_fits(self) -> bool:
        """Whether training fits; True if the GPU is not known."""
        return self.card is None or self.training.total <= self.card.memory

    @property
    def serving_fits(self) -> bool:
        """Whether serving fits; True if the GPU is not known."""
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
    """Return the estimate of a job whose recipe names a backend, not ``auto``.

    ``base_bytes`` is the size of the base on disk, if known.
    """
    card = options.card
    formula = FORMULAS[recipe.advanced.backend]
    recipe = with_checkpointing(shape, recipe, data=data, card=card)
    step = choose_step(shape, recipe, data=data, card=card)
    micro = step.micro_batch
    tokens = _tokens(recipe, data)
    rate = None if card is None or card.tflops is None else card.tflops * 1e12
    flops = None if tokens is None else tokens * flops_per_token(shape, recipe, length=step.length)
    efficiency = EFFICIENCY[recipe.advanced.backend]
    return Estimate(
        card=card,
        backend=formula.name,
        micro_batch=micro,
        checkpointing=recipe.advanced.gradient_checkpointing is not False,
        accumulation=recipe.effective_batch_size // micro,
        length=step.length,
        training=memory.training(shape, recipe, formula, step),
        serving=None if options.serving is None else serving(shape, options.serving),
        host=host.needed(shape, recipe, tokens=step.tokens, rows=data.all_tokens),
        pinned=host.rounding(shape, recipe, tokens=step.tokens),
        volume=volume_bytes(shape, recipe, data=data, merges=options.merges, base_bytes=base_bytes),
        tokens=tokens,
        seconds=None if rate is None or flops is None else flops / (rate * efficiency),
    )


def with_checkpointing(
    shape: Shape, recipe: Training, *, data: Data, card: Card | None
) -> Training:
    """Return the recipe with gradient checkpointing on or off.

    It is off if the activations of the micro-batch that is chosen with it fit without it, too: then
    it would cost a third of the operations of a step (a second forward pass: 2 of 6) for nothing.
    Unsloth's own checkpointing stays on. Its memory without it was not compared with a trace.
    """
    if recipe.advanced.gradient_checkpointing is not None:
        return recipe
    on, off = (
        recipe.model_copy(
            update={
                "advanced": recipe.advanced.model_copy(update={"gradient_checkpointing": enabled})
            }
        )
        for enabled in (True, False)
    )
    formula = FORMULAS[recipe.advanced.backend]
    if card is None or card.shared or formula.offloads:
        return on
    step = choose_step(shape, on, data=data, card=card)
    fits = memory.training(shape, off, formula, step).total <= USABLE * card.memory
    return off if fits else on


def batch_length(recipe: Training, data: Data) -> int:
    """Return the padded row length of the largest batch: at most the sequence length."""
    full = recipe.sequence_length
    padded = recipe.advanced.pad_to_sequence_length
    if padded or is_packed(recipe, data) or data.longest is None:
        return full
    return min(full, data.longest)


def choose_step(shape: Shape, recipe: Training, *, data: Data, card: Card | None) -> Step:
    """Return a step with the micro-batch of the spec, or the largest that fits the GPU.

    A chosen micro-batch divides the effective batch size and needs at most ``USABLE`` of the GPU.
    It is 1 for packed rows with an attention mask, whose memory and time grow with the square of
    the micro-batch.
    """
    formula = FORMULAS[recipe.advanced.backend]
    capability = AMPERE if card is None else card.capability
    packed = is_packed(recipe, data)
    step = Step(
        micro_batch=recipe.advanced.micro_batch_size or 1,
        length=batch_length(recipe, data),
        packed=packed,
        kernel=choose(recipe, packed=packed, capability=capability, support=shape.attention),
    )
    if recipe.advanced.micro_batch_size is not None:
        return step
    if packed and formula.masks and step.mask_elements:
        return step
    effective = recipe.effective_batch_size
    divisors = [size for size in range(effective, 1, -1) if effective % size == 0]
    if card is None:
        divides = UNKNOWN_CARD_MICRO_BATCH in divisors
        return replace(step, micro_batch=UNKNOWN_CARD_MICRO_BATCH) if divides else step
    for micro in divisors:
        larger = replace(step, micro_batch=micro)
        if memory.training(shape, recipe, formula, larger).total <= USABLE * card.memory:
            return larger
    return step


def is_packed(recipe: Training, data: Data) -> bool:
    """Report whether rows are or may be packed."""
    return recipe.packing != "never" if data.packed is None else data.packed


def flops_per_token(shape: Shape, recipe: Training, *, length: int) -> float:
    """Return the floating-point operations per token: forward, input gradients, recomputation.

    The base is frozen, so no weight gradients are computed, except for a trained head.
    """
    weights = shape.linear_parameters + shape.vocabulary * shape.hidden
    attention = 2 * shape.layers * shape.heads * shape.head_dim * length
    forward = 2 * weights + attention
    again = 0 if recipe.advanced.gradient_checkpointing is False else 1
    head = 2 * shape.vocabulary * shape.hidden
    own = head if "lm_head" in (recipe.lora.modules_to_save or ()) else 0
    return forward * (2 + again) + attention + own


def volume_bytes(
    shape: Shape, recipe: Training, *, data: Data, merges: bool, base_bytes: int | None
) -> int:
    """Return the disk space of a job: base, tokens, checkpoints, adapter and merged model."""
    adapter = memory.trained_parameters(shape, recipe) * 4
    states = memory.optimizer_bytes(shape, recipe)
    base = 2 * shape.parameters if base_bytes is None else base_bytes
    merged = 2 * shape.parameters if merges else 0
    best = recipe.advanced.early_stopping_patience is not None
    checkpoints = (CHECKPOINTS + best) * (adapter + states)
    return int(base + 8 * data.all_tokens + checkpoints + adapter + merged)


def _tokens(recipe: Training, data: Data) -> int | None:
    """Return all tokens of the training, padding to full sequences included; None if unknown."""
    if data.steps is None:
        return None
    rows = data.steps * recipe.effective_batch_size
    if recipe.advanced.pad_to_sequence_length:
        return rows * recipe.sequence_length
    if not data.tokens or not data.sequences:
        return None
    return math.ceil(rows * data.tokens / data.sequences)
