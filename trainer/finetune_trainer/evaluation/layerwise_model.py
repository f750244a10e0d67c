"""A model with its adapter whose base weights are loaded layer by layer.

Memory holds one decoder layer in float32, plus embedding and head. The model class is that of
transformers, and the adapter is computed by the layers of PEFT. No code is shared with the merge,
because the scores of this model are the reference for merged models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from finetune_trainer.attention.kernels import SDPA
from finetune_trainer.checkpointing.safetensors_header import read_header
from finetune_trainer.models import adapter_names, tensor_names, text_model
from finetune_trainer.quantization.quant_state import DequantizedBase

BaseKind = Literal["original", "dequantized"]
Place = tuple[torch.nn.Module, str, str]
"""Module, parameter or saved buffer, and the name of its tensor in the model without adapter."""


class UnsupportedFamily(Exception):
    """The model family cannot be loaded layer by layer; the message says why."""


class LayerwiseModel:
    """One base and one adapter. ``rounded`` reproduces the 4-bit weights of the training."""

    def __init__(
        self,
        base: Path,
        adapter: Path,
        rounded: DequantizedBase,
        *,
        device: torch.device,
        attention: str = SDPA,
    ) -> None:
        """Read headers, build the model without weights, and add the adapter.

        attention: the kernel; SDPA or EAGER.
        """
        shards = sorted(path.name for path in base.glob("*.safetensors"))
        self._header = read_header(base, shards)
        self._files: dict[str, Any] = {
            shard: safe_open(base / shard, framework="pt") for shard in shards
        }
        self._rounded = rounded
        self.device = device
        self._stored = tensor_names.find(base, self._header.tensors).parameters
        config = text_model.load_config(base)
        config.use_cache = False
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
            )
        # Creating parameters without weights has untied tied ones.
        model.tie_weights()
        wrapped = peft.PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True)
        foreign = adapter_names.difference(wrapped, adapter)
        if foreign is not None:
            raise UnsupportedFamily(f"the adapter does not fit {type(model).__name__}: {foreign}")
        _fill_adapter(wrapped, peft.load_peft_weights(adapter, device="cpu"))
        self.model = model.eval()
        self._names = {
            id(parameter): _of_base(name)
            for name, parameter in wrapped.named_parameters()
            if parameter.is_meta
        }
        strange = sorted(set(self._names.values()) - set(self._stored))
        if strange:
            raise UnsupportedFamily(f"the files of the base model contain no tensor {strange[0]}")
        self._names |= {
            id(buffer): name
            for full_name, buffer in wrapped.named_buffers()
            if buffer.is_floating_point() and (name := _of_base(full_name)) in self._stored
        }
        self.decoder = model.get_decoder()
        if not isinstance(getattr(self.decoder, "layers", None), torch.nn.ModuleList):
            raise UnsupportedFamily(f"{type(model).__name__} has no list of decoder layers")
        self.layers = list(self.decoder.layers)
        self._places = {layer: list(self._tensors_within(layer)) for layer in self.layers}
        inside = {name for places in self._places.values() for _, _, name in places}
        self._outside = [place for place in self._tensors_within(model) if place[2] not in inside]
        self._in_full = [
            module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)
        ]
        in_layers = {module for layer in self.layers for module in _adapted(layer)}
        self._adapted_outside = [module for module in _adapted(model) if module not in in_layers]
        weights = {id(module.get_base_layer()) for module in self._adapted_outside}
        self._rounded_outside = [place for place in self._outside if rounded.covers(place[2])]
        self._changed_outside = [
            place for place in self._outside if rounded.covers(place[2]) or id(place[0]) in weights
        ]
        self._load_outside_layers()

    def load_layer(self, layer: torch.nn.Module, kind: BaseKind) -> None:
        """Load the weights of a layer from one base, in float32, with an unmerged adapter."""
        _forget_merge(layer)
        for module, part, name in self._places[layer]:
            self._load(module, part, name, kind)

    def unload_layer(self, layer: torch.nn.Module) -> None:
        """Drop the weights of a layer."""
        _forget_merge(layer)
        for module, part, _ in self._places[layer]:
            _put(module, part, torch.empty_like(getattr(module, part), device="meta"))

    @contextmanager
    def cast_layer(self, layer: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
        """Cast the base weights of a layer to ``dtype`` within the context."""
        before = [(module, part, getattr(module, part)) for module, part, _ in self._places[layer]]
        for module, part, weight in before:
            _put(module, part, weight.to(dtype))
        yield
        for module, part, weight in before:
            _put(module, part, weight)

    def cast_outside_layers(self, dtype: torch.dtype) -> None:
        """Cast all modules outside the decoder layers to ``dtype``."""
        for module, part, _ in self._outside:
            _put(module, part, getattr(module, part).to(dtype))
        for wrapper in self._in_full:
            wrapper.modules_to_save.to(dtype)

    def variant_outside_layers(
        self, kind: BaseKind, *, tuned: bool, merged: bool
    ) -> tuple[Any, ...]:
        """Return a value that is equal for models with equal modules outside the decoder layers."""
        return (
            kind if self._rounded_outside else None,
            tuned if self._in_full or self._adapted_outside else None,
            merged if self._changed_outside else None,
        )

    def set_outside_layers(self, kind: BaseKind, *, tuned: bool, merged: bool) -> None:
        """Give the modules outside the decoder layers the weights of a model, in float32.

        Few families have linear layers there (Gemma 4, Gemma 3n), which the training quantizes and
        may adapt. tuned: with the adapter and the fully trained modules; merged: the sum of weights
        and adapter is rounded to bfloat16.
        """
        for module in self._adapted_outside:
            module.merged_adapters.clear()
        for module, part, name in self._changed_outside:
            self._load(module, part, name, kind)
        for module in self._adapted_outside:
            module.enable_adapters(tuned)
            if merged:
                module.merge()
        if merged:
            for module, part, _ in self._changed_outside:
                _put(module, part, getattr(module, part).to(torch.bfloat16).float())
        for wrapper in self._in_full:
            wrapper.enable_adapters(tuned)

    def _load_outside_layers(self) -> None:
        for parameter in self.model.parameters():
            if not parameter.is_meta:
                parameter.data = parameter.data.to(self.device, torch.float32)
        loaded: dict[str, torch.Tensor] = {}
        for module, part, name in self._outside:
            if name not in loaded:
                loaded[name] = self._read(name).to(self.device, torch.float32, copy=True)
            _put(module, part, loaded[name])
        for module in self.model.modules():
            for part, buffer in module.named_buffers(recurse=False):
                module._buffers[part] = buffer.to(self.device)

    def _load(self, module: torch.nn.Module, part: str, name: str, kind: BaseKind) -> None:
        weight = self._read(name)
        if kind == "dequantized" and self._rounded.covers(name):
            weight = self._rounded.weight(name, weight.to(self.device))
        _put(module, part, weight.to(self.device, torch.float32, copy=True))

    def _read(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        tensor: torch.Tensor = self._files[self._header.tensors[stored].file].get_tensor(stored)
        return tensor

    def _tensors_within(self, within: torch.nn.Module) -> Iterator[Place]:
        for module in within.modules():
            for part, tensor in (*module._parameters.items(), *module._buffers.items()):
                if id(tensor) in self._names:
                    yield module, part, self._names[id(tensor)]


def set_adapter_enabled(layer: torch.nn.Module, *, on: bool) -> None:
    """Enable or disable the adapter of a layer."""
    for module in _adapted(layer):
        module.enable_adapters(on)


def merge_adapter(layer: torch.nn.Module) -> None:
    """Add the adapter of a layer to its weights."""
    set_adapter_enabled(layer, on=True)
    for module in _adapted(layer):
        module.merge()


def _forget_merge(layer: torch.nn.Module) -> None:
    """Mark the adapters as unmerged; the weights that they were merged into are dropped."""
    for module in _adapted(layer):
        module.merged_adapters.clear()


def _adapted(layer: torch.nn.Module) -> list[Any]:
    return [module for module in layer.modules() if isinstance(module, BaseTunerLayer)]


def _fill_adapter(wrapped: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load the adapter's weights, which PEFT created on the meta device like those of the base.

    Names in the file lack the name of the adapter (``default``), and DoRA's vector is not a module.
    """
    for name, module in wrapped.named_modules():
        for part, parameter in list(module.named_parameters(recurse=False)):
            key = f"{name}.{part}".replace(".modules_to_save.default", "").replace(".default", "")
            tensor = weights.get(key, weights.get(key.removesuffix(".weight")))
            if parameter.is_meta and tensor is not None:
                _put(module, part, tensor.to(torch.float32))


def _of_base(name: str) -> str:
    """Return the name of a parameter in the base without adapter."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _put(module: torch.nn.Module, part: str, tensor: torch.Tensor) -> None:
    if part in module._buffers:
        module._buffers[part] = tensor
        return
    module._parameters[part] = torch.nn.Parameter(tensor, requires_grad=False)
