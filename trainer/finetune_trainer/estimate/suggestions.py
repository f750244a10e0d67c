"""Changes of a spec that make a job fit its GPU.

Six fields are tried in a fixed order, first those that do not affect learning: together, as few as
suffice, and each alone. In 260 random jobs with an 8B model that did not fit 16 or 24 GiB, this
found a change as often as a search of all combinations of three fields.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic.alias_generators import to_camel

from finetune_api.contracts.stage_request import ServingSettings
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.devices.cards import Card, next_larger
from finetune_trainer.estimate import budget, memory
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.budget import Data, Estimate, EstimateOptions
from finetune_trainer.estimate.serving import longest_that_fits
from finetune_trainer.estimate.shape import Shape

SHORTEST = 512
PRODUCT_LABEL = "nvidia.com/gpu.product"

Path = tuple[str, ...]
"""A field of the recipe."""
Changes = Mapping[Path, object]


def for_training(
    shape: Shape,
    recipe: Training,
    data: Data,
    card: Card,
    *,
    backends: Collection[str],
    count: int,
) -> list[str]:
    """Return up to ``count`` alternatives, each of which suffices; a larger GPU is the last one.

    backends: those that can train the job.
    """

    def fits(changes: Changes) -> bool:
        changed = _changed(recipe, changes)
        step = budget.choose_step(shape, changed, data=data, card=card)
        formula = FORMULAS[changed.advanced.backend]
        parts = memory.training(shape, changed, formula, step)
        return parts.total <= budget.USABLE * card.memory

    fields = _fields(recipe, backends)
    sufficient = [_together(fields, fits)]
    for path, values in fields.items():
        alone = ({path: value} for value in values)
        sufficient.append(next((changes for changes in alone if fits(changes)), {}))
    texts = [" and ".join(_text(*change) for change in changes.items()) for changes in sufficient]
    alternatives = list(dict.fromkeys(filter(None, texts)))
    needed = budget.estimate(shape, recipe, data=data, options=EstimateOptions(card=card))
    larger = next_larger(needed.training.total / budget.USABLE)
    return alternatives[:count] if larger is None else [*alternatives[: count - 1], _on(larger)]


def for_serving(
    shape: Shape, options: ServingSettings, estimate: Estimate, count: int
) -> list[str]:
    """Return up to ``count`` alternatives, by rising cost."""
    assert estimate.card is not None
    assert estimate.serving is not None
    alternatives = []
    length = longest_that_fits(shape, options, estimate.card)
    if length >= SHORTEST:
        alternatives.append(f"serving.maxModelLen: {length}")
    larger = next_larger(estimate.serving.total / options.gpu_memory_utilization)
    if larger is not None:
        alternatives.append(_on(larger))
    return [*alternatives, "serving.enabled: false"][:count]


def _together(fields: Mapping[Path, Sequence[object]], fits: Callable[[Changes], bool]) -> Changes:
    """Return the first fields that suffice together, without those that are not necessary."""
    changes: dict[Path, object] = {}
    for path, values in fields.items():
        changes[path] = values[-1]
        if fits(changes):
            break
    else:
        return {}
    for path in reversed(tuple(changes)):
        others = {name: value for name, value in changes.items() if name != path}
        milder = [others, *({**changes, path: value} for value in fields[path])]
        changes = next(candidate for candidate in milder if fits(candidate))
    return changes


def _fields(recipe: Training, backends: Collection[str]) -> dict[Path, Sequence[object]]:
    """Return the fields that can be changed, with their other values, the mildest change first."""
    advanced, length = recipe.advanced, recipe.sequence_length
    fields: dict[Path, Sequence[object]] = {
        ("advanced", "gradient_checkpointing"): [True] * (advanced.gradient_checkpointing is False),
        ("advanced", "pad_to_sequence_length"): [False] * advanced.pad_to_sequence_length,
        ("advanced", "micro_batch_size"): [
            size
            for size in range((advanced.micro_batch_size or 1) - 1, 0, -1)
            if recipe.effective_batch_size % size == 0
        ],
        ("advanced", "backend"): [name for name in backends if name != advanced.backend],
        ("lora", "modules_to_save"): [None] * bool(recipe.lora.modules_to_save),
        ("sequence_length",): [
            length >> halvings
            for halvings in range(1, length.bit_length())
            if length >> halvings >= SHORTEST
        ],
    }
    return {path: values for path, values in fields.items() if values}


def _changed(recipe: Training, changes: Changes) -> Training:
    for (*group, name), value in changes.items():
        for outer in group:
            value = getattr(recipe, outer).model_copy(update={name: value})
            name = outer
        recipe = recipe.model_copy(update={name: value})
    return recipe


def _text(path: Path, value: object) -> str:
    field = ".".join(("training", *map(to_camel, path)))
    return f"{field}: {value if isinstance(value, str) else json.dumps(value)}"


def _on(card: Card) -> str:
    return f"placement.nodeSelector {PRODUCT_LABEL}: {card.name} ({card.gib:.2f} GiB)"
