"""Log-probabilities of sample rows under six models, in one pass over the base's weights.

The models are base and base + adapter, on the 16-bit base and on the 4-bit one, and the tuned ones
again in bfloat16. Outside the decoder layers, they usually differ at most in an embedding and a
head that were fully trained. So the weights of each layer are loaded once per base, and all rows of
all models pass through that layer before the next one is loaded.

Tuned models are computed in float32, because a server is compared with them. A base that must only
be distinguished from them is computed in bfloat16, at a fraction of the cost.
"""

from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from finetune_trainer.evaluation import long_row
from finetune_trainer.evaluation.activation_peak import ActivationPeak
from finetune_trainer.evaluation.layerwise_model import (
    BaseKind,
    LayerwiseModel,
    UnsupportedFamily,
    merge_adapter,
    set_adapter_enabled,
)

KINDS: tuple[BaseKind, ...] = get_args(BaseKind)
TOKENS_AT_ONCE = long_row.LENGTH
"""Maximum number of padded tokens of one model per forward pass of a layer."""
LOGITS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """One of the six models: its base, its part (``base``, ``tuned``, ``rounded``), its type."""

    kind: BaseKind
    part: str
    dtype: torch.dtype

    @property
    def tuned(self) -> bool:
        """Whether the model includes the adapter."""
        return self.part != "base"

    @property
    def merged(self) -> bool:
        """Whether the adapter is in the weights."""
        return self.part == "rounded"


def models(*, evaluated: bool) -> list[ScoredModel]:
    """Return the six models, in the order in which a layer is converted from one to the next.

    evaluated: whether the losses of the tuned models are compared with that of the 16-bit base;
    that base is then computed in float32, too.
    """
    ordered = []
    for kind in KINDS:
        exact = evaluated and kind == "original"
        base = torch.float32 if exact else torch.bfloat16
        for part, dtype in (("base", base), ("tuned", torch.float32), ("rounded", torch.bfloat16)):
            ordered.append(ScoredModel(kind=kind, part=part, dtype=dtype))
    return ordered


_Inputs = list[tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Rows of similar length, and the hidden states of each model."""

    numbers: Sequence[int]
    """Numbers of the rows."""
    inputs: dict[ScoredModel, _Inputs]
    """Of each model: the arguments of each layer other than the hidden states."""
    states: dict[ScoredModel, torch.Tensor]
    real: torch.Tensor
    """Which tokens are not padding: (rows, tokens)."""
    shared: dict[tuple[ScoredModel, str], Any] = field(default_factory=dict)

    def arguments(self, at: int, model: ScoredModel) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a layer for one model.

        transformers passes a ``UserDict`` to all layers if earlier ones write keys and values for
        later ones into it (Gemma 4). Each model gets its own.
        """
        args, kwargs = _cast(self.inputs[model][at], model.dtype)
        for name, value in kwargs.items():
            if isinstance(value, UserDict):
                kwargs[name] = self.shared.setdefault((model, name), UserDict())
        return args, kwargs


class Scorer:
    """Passes rows through a layer-wise model once."""

    def __init__(self, model: LayerwiseModel) -> None:
        """Save the forward methods of the layers, which are replaced."""
        self._layerwise = model
        self.activations = ActivationPeak(model.device)
        """Of the tuned models, within and between the decoder layers."""
        self._forwards = [layer.forward for layer in model.layers]
        self._inputs: _Inputs = []
        self._first_states = self._final_states = torch.empty(0)

    def score(
        self,
        requested: Sequence[ScoredModel],
        rows: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
    ) -> dict[ScoredModel, list[list[float]]]:
        """Return the log-probabilities of the tokens at ``positions``, by model and row."""
        # Tokens after the last position do not affect the scores.
        needed = [row[: max(at)] for row, at in zip(rows, positions, strict=True)]
        scores: dict[ScoredModel, list[list[float]]] = {
            model: [[] for _ in rows] for model in requested
        }
        with torch.no_grad():
            self._replace_forwards(self._record_inputs)
            batches = [self._batch(needed, numbers, requested) for numbers in in_batches(needed)]
            for at in range(len(self._forwards)):
                self._run_layer(at, requested, batches)
            self._replace_forwards(self._return_final_states)
            for model in sorted(requested, key=lambda model: model.dtype == torch.bfloat16):
                self._set_outside_layers(model)
                self._layerwise.cast_outside_layers(model.dtype)
                for batch in batches:
                    # All rows at once: every product with the head reads all of it from memory.
                    places = [
                        (at, row, to)
                        for at, row in enumerate(batch.numbers)
                        for to in positions[row]
                    ]
                    before = ([at for at, _, _ in places], [to - 1 for _, _, to in places])
                    targets = [rows[row][to] for _, row, to in places]
                    scored = self._head(batch.states[model][before], targets)
                    for (_, row, _), score in zip(places, scored, strict=True):
                        scores[model][row].append(score)
        return scores

    def _batch(
        self,
        rows: Sequence[Sequence[int]],
        numbers: Sequence[int],
        requested: Sequence[ScoredModel],
    ) -> _Batch:
        # Padded on the right: no token attends to those after it, so none attends to padding.
        tokens = [torch.tensor(rows[number]) for number in numbers]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(self._layerwise.device)
        begun: dict[tuple[Any, ...], tuple[torch.Tensor, _Inputs]] = {}
        states, inputs = {}, {}
        for model in requested:
            variant = self._layerwise.variant_outside_layers(
                model.kind, tuned=model.tuned, merged=model.merged
            )
            if variant not in begun:
                self._inputs = []
                self._set_outside_layers(model)
                self._layerwise.decoder(input_ids=ids)
                begun[variant] = self._first_states, self._inputs
            first, inputs[model] = begun[variant]
            states[model] = first.to(model.dtype)
        lengths = torch.tensor([len(row) for row in tokens])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        real = real.to(self._layerwise.device)
        for model in requested:
            if model.part == "tuned":
                self.activations.observe(states[model], real)
        return _Batch(numbers=numbers, inputs=inputs, states=states, real=real)

    def _set_outside_layers(self, model: ScoredModel) -> None:
        self._layerwise.set_outside_layers(model.kind, tuned=model.tuned, merged=model.merged)

    def _run_layer(
        self, at: int, requested: Sequence[ScoredModel], batches: Sequence[_Batch]
    ) -> None:
        layer = self._layerwise.layers[at]
        for kind in KINDS:
            self._layerwise.load_layer(layer, kind)
            for model in requested:
                if model.kind != kind:
                    continue
                if model.part == "rounded":
                    merge_adapter(layer)
                else:
                    set_adapter_enabled(layer, on=model.tuned)
                with self._layerwise.cast_layer(layer, model.dtype):
                    for batch in batches:
                        args, kwargs = batch.arguments(at, model)
                        with self._observed(layer, model, batch):
                            output = self._forwards[at](batch.states[model], *args, **kwargs)
                        if not isinstance(output, torch.Tensor):
                            raise UnsupportedFamily(
                                f"{type(layer).__name__} returns more than hidden states"
                            )
                        batch.states[model] = output
                        if model.part == "tuned":
                            self.activations.observe(output, batch.real)
        self._layerwise.unload_layer(layer)

    def _observed(
        self, layer: torch.nn.Module, model: ScoredModel, batch: _Batch
    ) -> AbstractContextManager[None]:
        """Return a context in which the activations of a tuned model are observed."""
        if model.part != "tuned":
            return nullcontext()
        return self.activations.of_modules(layer, batch.real)

    def _head(self, hidden: torch.Tensor, targets: Sequence[int]) -> Iterator[float]:
        """Yield the log-probability of each target from the last hidden state before it."""
        for start in range(0, len(targets), LOGITS_AT_ONCE):
            part = slice(start, start + LOGITS_AT_ONCE)
            ids = torch.tensor([targets[part]], device=self._layerwise.device)
            # Uses the model's own final norm, head and logit transformations.
            self._final_states = hidden[None, part]
            logits = self._layerwise.model(input_ids=ids).logits[0].float()
            yield from logits.log_softmax(-1).gather(1, ids.T)[:, 0].tolist()

    def _replace_forwards(self, instead: Callable[..., torch.Tensor]) -> None:
        for layer in self._layerwise.layers:
            layer.forward = instead

    def _record_inputs(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Record the inputs of a layer and pass its hidden states through."""
        self._first_states = hidden_states
        self._inputs.append((args, kwargs))
        return hidden_states

    def _return_final_states(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return recorded final hidden states as the output of the last layer."""
        return self._final_states


def in_batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group the numbers of rows by similar length, up to ``TOKENS_AT_ONCE`` tokens per batch."""
    batches: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        # The first row of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) <= TOKENS_AT_ONCE:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors of a layer's inputs to a type."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(inner, dtype) for inner in value)
    if isinstance(value, dict):
        return {key: _cast(inner, dtype) for key, inner in value.items()}
    return value
