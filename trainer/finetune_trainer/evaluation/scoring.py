"""Log-probabilities of a few rows under six models, in one walk through the base's weights.

The models are base and base + adapter, on the 16-bit base and on the 4-bit one, and the tuned ones
once more in bfloat16. Outside the decoder's layers they differ at most by an embedding and a head
that were trained in full, so each layer's weights are there once for each base, and take all rows
of all models one layer further.

Tuned models are computed in float32: they are what a server is measured against. A base that only
has to be told apart from them is computed in bfloat16, at a fraction of the cost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from finetune_trainer.models.layerwise_model import (
    BaseKind,
    LayerwiseModel,
    UnsupportedFamily,
    merge_adapter,
    set_adapter_enabled,
)

KINDS: tuple[BaseKind, ...] = get_args(BaseKind)
TOKENS_AT_ONCE = 2048
"""Padded tokens of one model that go through a layer together."""
LOGITS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: which base, ``base``, ``tuned`` or ``rounded``, and what it is computed in."""

    kind: BaseKind
    part: str
    dtype: torch.dtype

    @property
    def tuned(self) -> bool:
        """Whether the adapter takes part."""
        return self.part != "base"


def models(*, evaluated: bool) -> list[Model]:
    """Return the six models, in the order in which a layer becomes one after the other.

    evaluated: whether the tuned models' losses will be compared with that of the 16-bit base, and
    not only each tuned model with its base.
    """
    found = []
    for kind in KINDS:
        exact = evaluated and kind == "original"
        base = torch.float32 if exact else torch.bfloat16
        for part, dtype in (("base", base), ("tuned", torch.float32), ("rounded", torch.bfloat16)):
            found.append(Model(kind=kind, part=part, dtype=dtype))
    return found


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Rows of about one length, and how far each model has come with them."""

    rows: Sequence[int]
    """Their numbers."""
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """What each layer gets beside hidden states."""
    states: dict[Model, torch.Tensor]


class Scorer:
    """Walks rows through a layer-wise model, once."""

    def __init__(self, model: LayerwiseModel) -> None:
        """Take over the forward passes of its layers."""
        self._layerwise = model
        self._own = [layer.forward for layer in model.layers]
        self._inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._begun = self._ended = torch.empty(0)

    def score(
        self,
        wanted: Sequence[Model],
        rows: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
    ) -> dict[Model, list[list[float]]]:
        """Return, for each model and row, the log-probabilities of the tokens at ``positions``."""
        # Nothing that follows the last of them has a say in it.
        needed = [row[: max(at)] for row, at in zip(rows, positions, strict=True)]
        found: dict[Model, list[list[float]]] = {model: [[] for _ in rows] for model in wanted}
        with torch.no_grad():
            self._instead_of_layers(self._note)
            batches = [self._batch(numbers, needed, wanted) for numbers in in_batches(needed)]
            for at in range(len(self._own)):
                self._one_layer_further(at, wanted, batches)
            self._instead_of_layers(self._replay)
            for model in sorted(wanted, key=lambda model: model.dtype == torch.bfloat16):
                self._layerwise.cast_outside_layers(model.dtype)
                self._layerwise.use_saved_modules(on=model.tuned)
                for batch in batches:
                    for at, row in enumerate(batch.rows):
                        hidden = batch.states[model][at, [each - 1 for each in positions[row]]]
                        targets = [rows[row][each] for each in positions[row]]
                        found[model][row].extend(self._head(hidden, targets))
        return found

    def _batch(
        self, numbers: Sequence[int], rows: Sequence[Sequence[int]], wanted: Sequence[Model]
    ) -> _Batch:
        longest = max(len(rows[number]) for number in numbers)
        # Padding is on the right and attention causal: nothing that is scored sees it.
        ids = torch.zeros(len(numbers), longest, dtype=torch.long)
        for at, number in enumerate(numbers):
            ids[at, : len(rows[number])] = torch.tensor(rows[number])
        begun = {}
        for tuned in (False, True):
            self._inputs = []
            self._layerwise.use_saved_modules(on=tuned)
            self._layerwise.decoder(input_ids=ids.to(self._layerwise.device))
            begun[tuned] = self._begun
        states = {model: begun[model.tuned].to(model.dtype) for model in wanted}
        return _Batch(rows=numbers, inputs=self._inputs, states=states)

    def _one_layer_further(
        self, at: int, wanted: Sequence[Model], batches: Sequence[_Batch]
    ) -> None:
        layer = self._layerwise.layers[at]
        for kind in KINDS:
            self._layerwise.load_layer(layer, kind)
            for model in wanted:
                if model.kind != kind:
                    continue
                if model.part == "rounded":
                    merge_adapter(layer)
                else:
                    set_adapter_enabled(layer, on=model.tuned)
                with self._layerwise.cast_layer(layer, model.dtype):
                    for batch in batches:
                        args, kwargs = _cast(batch.inputs[at], model.dtype)
                        result = self._own[at](batch.states[model], *args, **kwargs)
                        if not isinstance(result, torch.Tensor):
                            raise UnsupportedFamily(
                                f"{type(layer).__name__} returns more than states"
                            )
                        batch.states[model] = result
        self._layerwise.unload_layer(layer)

    def _head(self, hidden: torch.Tensor, targets: Sequence[int]) -> Iterator[float]:
        """Yield the log-probability of each target, from what the last layer said before it."""
        for start in range(0, len(targets), LOGITS_AT_ONCE):
            part = slice(start, start + LOGITS_AT_ONCE)
            ids = torch.tensor([targets[part]], device=self._layerwise.device)
            # The model's own final norm, head and whatever it does to its logits.
            self._ended = hidden[None, part]
            logits = self._layerwise.model(input_ids=ids).logits[0].float()
            yield from logits.log_softmax(-1).gather(1, ids.T)[:, 0].tolist()

    def _instead_of_layers(self, instead: Callable[..., torch.Tensor]) -> None:
        for layer in self._layerwise.layers:
            layer.forward = instead

    def _note(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Note what a layer is given, and give the next one the same."""
        self._begun = hidden_states
        self._inputs.append((args, kwargs))
        return hidden_states

    def _replay(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Let the last layer have said what it said."""
        return self._ended


def in_batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the numbers of the rows, those of like length together, as many as have room."""
    batches: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        # The first of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) <= TOKENS_AT_ONCE:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Return a layer's inputs in its number format."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(each, dtype) for each in value)
    if isinstance(value, dict):
        return {key: _cast(each, dtype) for key, each in value.items()}
    return value
