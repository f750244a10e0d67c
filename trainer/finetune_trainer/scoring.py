"""Log-probabilities of a few rows under six models, in one walk through the base's weights.

The models are base and base + adapter, on the 16-bit base and on the 4-bit one, in float32, and the
tuned ones once more in bfloat16. They differ only inside the decoder's layers, so each layer is
read from disk once, takes all rows of all models one layer further, and is dropped: no more than
one layer in float32 is in memory, beside embedding and head.

The adapter is computed by PEFT's own layers, and the model by transformers' own class: nothing here
is shared with the merge, which is what this is to be compared with.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.quantized import RoundedBase
from finetune_trainer.tensors import read_header
from finetune_trainer.weights import Mapped

MODELS = (
    ("original", "base"),
    ("original", "tuned"),
    ("original", "rounded"),
    ("dequantized", "base"),
    ("dequantized", "tuned"),
    ("dequantized", "rounded"),
)
Model = tuple[str, str]
TOKENS_AT_ONCE = 4096
"""Padded tokens of one model that go through a layer, or through the head, together."""


class Unsupported(Exception):
    """This model family cannot be walked through layer by layer; the text says why."""


class Scorer:
    """One base and one adapter. ``rounded`` makes the 4-bit weights of the training again."""

    def __init__(
        self, base: Path, adapter: Path, rounded: RoundedBase, *, device: torch.device
    ) -> None:
        """Read headers, build the model without weights, lay the adapter over it."""
        shards = sorted(path.name for path in base.glob("*.safetensors"))
        self._header = read_header(base, shards)
        self._files = {shard: Mapped(base / shard) for shard in shards}
        self._rounded = rounded
        self._device = device
        config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        config.use_cache = False
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
            )
        # What is tied was taken apart when its parameters were made without weights.
        model.tie_weights()
        wrapped = peft.PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True)
        _fill_adapter(wrapped, peft.load_peft_weights(adapter, device="cpu"))
        self._model = model.eval()
        self._names = {
            id(parameter): name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            for name, parameter in wrapped.named_parameters()
            if parameter.is_meta
        }
        strange = sorted(set(self._names.values()) - set(self._header.tensors))
        if strange:
            raise Unsupported(f"the base's files have no {strange[0]}")
        decoder = model.get_decoder()
        if not isinstance(getattr(decoder, "layers", None), torch.nn.ModuleList):
            raise Unsupported(f"{type(model).__name__} has no list of decoder layers")
        self._layers = list(decoder.layers)
        self._states: dict[Model, torch.Tensor] = {}
        self._replay: torch.Tensor | None = None
        self._place_all_but_layers(decoder)
        for at, layer in enumerate(self._layers):
            layer.forward = self._instead_of(layer, layer.forward, at)

    def score(
        self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> dict[Model, list[list[float]]]:
        """Return, for each model and row, the log-probabilities of the tokens at ``positions``."""
        longest = max(len(row) for row in rows)
        # Padding is on the right and attention causal: nothing that is scored sees it.
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=self._device)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
        with torch.no_grad():
            self._model.get_decoder()(input_ids=ids)
            at_rows = [at for at, each in enumerate(positions) for _ in each]
            flat = [position for each in positions for position in each]
            targets = ids[at_rows, flat]
            found = {}
            for model in sorted(MODELS, key=lambda model: model[1] == "rounded"):
                if model[1] == "rounded":
                    self._round_all_but_layers()
                hidden = self._states[model][at_rows, [position - 1 for position in flat]]
                scores = self._head(hidden, targets)
                found[model] = [[next(scores) for _ in each] for each in positions]
        return found

    def _head(self, hidden: torch.Tensor, targets: torch.Tensor) -> Iterator[float]:
        """Yield the log-probability of each target, from what the last layer said before it."""
        for start in range(0, len(targets), TOKENS_AT_ONCE // 8):
            wanted = targets[start : start + TOKENS_AT_ONCE // 8]
            # The model's own final norm, head and whatever it does to its logits.
            self._replay = hidden[None, start : start + TOKENS_AT_ONCE // 8]
            logits = self._model(input_ids=wanted[None]).logits[0].float()
            scores = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            self._replay = None
            yield from scores.tolist()

    def _instead_of(
        self, layer: torch.nn.Module, own: Callable[..., Any], at: int
    ) -> Callable[..., Any]:
        """Return what a layer does instead: all models, one layer further."""

        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._replay is not None:
                return self._replay if at == len(self._layers) - 1 else hidden_states
            if at == 0:
                self._states = {
                    model: hidden_states.bfloat16() if model[1] == "rounded" else hidden_states
                    for model in MODELS
                }
            in_tuple = False
            for kind in ("original", "dequantized"):
                self._load(layer, kind)
                for model in MODELS:
                    if model[0] == kind:
                        self._prepare(layer, model[1])
                        self._states[model], in_tuple = _in_parts(
                            own, self._states[model], args, kwargs
                        )
            self._drop(layer)
            result = self._states[MODELS[0]]
            return (result,) if in_tuple else result

        return forward

    def _load(self, layer: torch.nn.Module, kind: str) -> None:
        _unfold(layer)
        for module, part, name in self._places(layer):
            weight = self._files[self._header.tensors[name].file].read(name)
            if kind == "dequantized" and self._rounded.covers(name):
                weight = self._rounded.weight(name, weight.to(self._device))
            _put(module, part, weight.to(self._device, torch.float32, copy=True))

    def _prepare(self, layer: torch.nn.Module, variant: str) -> None:
        """Switch the adapter on or off; for ``rounded``, fold it in and cast everything."""
        tuned = [each for each in layer.modules() if isinstance(each, BaseTunerLayer)]
        for module in tuned:
            module.enable_adapters(variant == "tuned")
        if variant != "rounded":
            return
        for module in tuned:
            module.enable_adapters(True)
            module.merge()
        for module, part, _ in self._places(layer):
            _put(module, part, getattr(module, part).to(torch.bfloat16))

    def _drop(self, layer: torch.nn.Module) -> None:
        _unfold(layer)
        for module, part, _ in self._places(layer):
            _put(module, part, torch.empty_like(getattr(module, part), device="meta"))

    def _places(self, within: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, str]]:
        """Yield module, parameter and tensor name of the base's weights in a module."""
        yield from self._known.get(id(within), ())

    def _place_all_but_layers(self, decoder: torch.nn.Module) -> None:
        self._known: dict[int, list[tuple[torch.nn.Module, str, str]]] = {}
        inside = set()
        for layer in self._layers:
            places = list(self._found(layer))
            inside |= {name for _, _, name in places}
            self._known[id(layer)] = places
            for module in layer.modules():
                for parameter in module.parameters(recurse=False):
                    if not parameter.is_meta:
                        parameter.data = parameter.data.to(self._device, torch.float32)
        outside = [place for place in self._found(self._model) if place[2] not in inside]
        self._known[id(self._model)] = outside
        loaded: dict[str, torch.Tensor] = {}
        for module, part, name in outside:
            if name not in loaded:
                weight = self._files[self._header.tensors[name].file].read(name)
                loaded[name] = weight.to(self._device, torch.float32, copy=True)
            _put(module, part, loaded[name])
        for module in self._model.modules():
            for part, buffer in module.named_buffers(recurse=False):
                module._buffers[part] = buffer.to(self._device)

    def _found(self, within: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, str]]:
        for module in within.modules():
            for part, parameter in module.named_parameters(recurse=False):
                if id(parameter) in self._names:
                    yield module, part, self._names[id(parameter)]

    def _round_all_but_layers(self) -> None:
        for module, part, _ in self._places(self._model):
            _put(module, part, getattr(module, part).to(torch.bfloat16))


def _unfold(layer: torch.nn.Module) -> None:
    """Let adapters be what they were before they were folded into weights that go now."""
    for module in layer.modules():
        if isinstance(module, BaseTunerLayer):
            module.merged_adapters.clear()


def _fill_adapter(wrapped: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put the adapter's weights in; PEFT took them to where the base's are, which is nowhere.

    In the file the names lack the adapter's own, and DoRA's vector is no module.
    """
    for name, module in wrapped.named_modules():
        for part, parameter in list(module.named_parameters(recurse=False)):
            key = f"{name}.{part}".replace(".default", "")
            tensor = weights.get(key, weights.get(key.removesuffix(".weight")))
            if parameter.is_meta and tensor is not None:
                _put(module, part, tensor.to(torch.float32))


def _put(module: torch.nn.Module, part: str, tensor: torch.Tensor) -> None:
    module._parameters[part] = torch.nn.Parameter(tensor, requires_grad=False)


def _in_parts(
    own: Callable[..., Any], hidden: torch.Tensor, args: Any, kwargs: Any
) -> tuple[torch.Tensor, bool]:
    """Send rows through a layer, as many at once as activations have room for.

    Return what comes out, and whether the layer returns it in a tuple.
    """
    rows, length = hidden.shape[:2]
    step = max(1, TOKENS_AT_ONCE // length)
    done = []
    for start in range(0, rows, step):

        def part(value: Any, start: int = start) -> Any:
            if isinstance(value, tuple):
                return tuple(part(each) for each in value)
            if not isinstance(value, torch.Tensor):
                return value
            # What has one entry a row is cut; positions and masks that all rows share are not.
            if value.ndim >= 2 and value.shape[0] == rows:
                value = value[start : start + step]
            return value.to(hidden.dtype) if value.is_floating_point() else value

        found = own(
            hidden[start : start + step],
            *map(part, args),
            **{k: part(v) for k, v in kwargs.items()},
        )
        done.append(found[0] if isinstance(found, tuple) else found)
    return torch.cat(done), isinstance(found, tuple)
