"""Finds the smallest changes of a spec that make a job fit its GPU.

A change sets one to three fields. Changes that do not affect learning (gradient checkpointing,
micro-batch) have a lower cost than changes that do (dropout, shorter rows) or that need a larger
GPU.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, product

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training import Training
from finetune_trainer.estimate import budget, memory
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions
from finetune_trainer.estimate.serving import longest_that_fits
from finetune_trainer.estimate.shape import Shape
from finetune_trainer.runtime.cards import Card, next_larger

MOST_FIELDS = 3
SHORTEST = 512
OTHER_CARD = 4.0
PRODUCT_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One value of one field; ``cost`` is its distance from the spec, ``text`` its notation."""

    field: str
    text: str
    cost: float
    top: dict[str, object]
    advanced: dict[str, object]
    lora: dict[str, object]


def for_training(
    shape: Shape,
    recipe: Training,
    data: Data,
    card: Card,
    *,
    backends: Collection[str],
    count: int,
) -> list[str]:
    """Return up to ``count`` alternatives by rising cost; none of them contains another one.

    backends: those that can train the job.
    """
    fields = [options for options in _options(recipe, data, backends) if options]
    found: list[tuple[Option, ...]] = []
    for size in range(1, MOST_FIELDS + 1):
        for chosen in combinations(fields, size):
            fitting = [each for each in product(*chosen) if _fits(shape, recipe, data, card, each)]
            if fitting:
                found.append(min(fitting, key=_cost))
    kept = [one for one in found if not any(_is_smaller(other, one) for other in found)]
    alternatives = [(_cost(one), " and ".join(option.text for option in one)) for one in kept]
    alternatives += _larger_gpu(
        budget.estimate(shape, recipe, data=data, options=EstimateOptions(card=card))
    )
    return [text for _, text in sorted(alternatives)[:count]]


def _cost(options: tuple[Option, ...]) -> float:
    return sum(option.cost for option in options)


def _is_smaller(one: tuple[Option, ...], other: tuple[Option, ...]) -> bool:
    """Report whether ``one`` changes a subset of the fields of ``other``, none at a higher cost."""
    costs = {option.field: option.cost for option in other}
    return len(one) < len(other) and all(
        option.field in costs and option.cost <= costs[option.field] for option in one
    )


def for_serving(shape: Shape, options: ServingSettings, found: Estimate, count: int) -> list[str]:
    """Return up to ``count`` alternatives, by rising cost."""
    assert found.card is not None
    assert found.serving is not None
    alternatives = []
    length = longest_that_fits(shape, options, found.card)
    if length >= SHORTEST:
        alternatives.append(f"serving.maxModelLen: {length}")
    larger = next_larger(found.serving.total / options.gpu_memory_utilization)
    if larger is not None:
        alternatives.append(_on(larger))
    return [*alternatives, "serving.enabled: false"][:count]


def _options(recipe: Training, data: Data, backends: Collection[str]) -> Iterator[list[Option]]:
    advanced, effective = recipe.advanced, recipe.effective_batch_size
    if advanced.gradient_checkpointing is False:
        yield [_option("gradientCheckpointing", True, 1, advanced="gradient_checkpointing")]
    written = advanced.micro_batch_size
    if written is not None:
        yield [
            _option(
                "microBatchSize", size, 1 + (written - size) / 1024, advanced="micro_batch_size"
            )
            for size in range(written - 1, 0, -1)
            if effective % size == 0
        ]
    if advanced.pad_to_sequence_length and not budget.is_packed(recipe, data):
        yield [_option("padToSequenceLength", False, 1, advanced="pad_to_sequence_length")]
    yield [
        _option("backend", name, 2, advanced="backend")
        for name in backends
        if name != advanced.backend
    ]
    if recipe.lora.modules_to_save:
        yield [
            Option(
                field="modulesToSave",
                text="training.lora.modulesToSave: null",
                cost=3,
                top={},
                advanced={},
                lora={"modules_to_save": None},
            )
        ]
    if recipe.lora.dropout:
        yield [_option("dropout", 0, 2, lora="dropout")]
    lengths, length = [], recipe.sequence_length // 2
    while length >= SHORTEST:
        lengths.append(length)
        length //= 2
    yield [
        _option("sequenceLength", each, 2 + recipe.sequence_length / each, top="sequence_length")
        for each in lengths
    ]


def _option(
    field: str,
    value: object,
    cost: float,
    *,
    top: str | None = None,
    advanced: str | None = None,
    lora: str | None = None,
) -> Option:
    group = "training.lora" if lora else "training.advanced" if advanced else "training"
    shown = str(value).lower() if isinstance(value, bool) else value
    return Option(
        field=field,
        text=f"{group}.{field}: {shown}",
        cost=cost,
        top={top: value} if top else {},
        advanced={advanced: value} if advanced else {},
        lora={lora: value} if lora else {},
    )


def _fits(
    shape: Shape, recipe: Training, data: Data, card: Card, options: tuple[Option, ...]
) -> bool:
    top: dict[str, object] = {}
    advanced: dict[str, object] = {}
    lora: dict[str, object] = {}
    for option in options:
        top |= option.top
        advanced |= option.advanced
        lora |= option.lora
    changed = recipe.model_copy(
        update={
            **top,
            "advanced": recipe.advanced.model_copy(update=advanced),
            "lora": recipe.lora.model_copy(update=lora),
        }
    )
    step = budget.choose_step(shape, changed, data=data, card=card)
    formula = FORMULAS[changed.advanced.backend]
    found = memory.training(shape, changed, formula, step)
    return found.total <= budget.USABLE * card.memory


def _larger_gpu(found: Estimate) -> list[tuple[float, str]]:
    larger = next_larger(found.training.total / budget.USABLE)
    return [] if larger is None else [(OTHER_CARD, _on(larger))]


def _on(card: Card) -> str:
    return f"placement.nodeSelector {PRODUCT_LABEL}: {card.name} ({card.gib:.2f} GiB)"
