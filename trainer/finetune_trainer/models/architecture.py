"""Checks that the configuration and the weights of a base match, from file headers and on a CPU.

The model that will be trained is built from its configuration on torch's meta device, where weights
take no memory, and its parameters are compared with the tensors in the files. Without this check, a
layer whose weights are missing would be initialized at random and trained, or a GPU would train an
adapter that no merge can add to the files.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.attention import layers as attention_layers
from finetune_trainer.checkpointing.safetensors_header import Header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import special_layers, tensor_names, text_model
from finetune_trainer.models.tensor_names import TensorNames


def check(folder: Path, header: Header, names: TensorNames, *, source: str) -> None:
    """Raise InvalidSpec if the weights of a base do not suit its config.json, or the trainer.

    Weights may be missing or have another shape than config.json states, or they cannot be merged.
    names: the names of the model's tensors in the files.
    """
    model = text_model.build(folder)
    _require_decoder(model, source=source)
    _require_quantizable(model, source=source)
    missing = []
    for same, shape in _tensors(model):
        if same & names.converted:
            continue
        stored = next((names.parameters[name] for name in same if name in names.parameters), None)
        if stored is None:
            missing.append(min(same))
        elif header.tensors[stored].shape != shape:
            raise InvalidSpec(
                f"config.json and weights of model {source} do not match: the shape of {stored} is "
                f"{_times(shape)} in config.json, but {_times(header.tensors[stored].shape)} in "
                "the weights; choose another revision"
            )
    if missing:
        raise InvalidSpec(
            f"config.json and weights of model {source} do not match: the weights lack "
            f"{missing[0]} (missing tensors in total: {len(missing)}); choose another revision"
        )
    _require_mergeable(model, names, source=source)


def _tensors(model: Any) -> Iterator[tuple[set[str], tuple[int, ...]]]:
    """Yield the names and the shape of each tensor that files must contain.

    A tied parameter has several names, of which the files contain one.
    """
    optional = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    names: dict[int, set[str]] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), set()).add(name)
    for same in names.values():
        if not any(pattern.search(name) for name in same for pattern in optional):
            yield same, tuple(state[min(same)].shape)


def _require_mergeable(model: Any, names: TensorNames, *, source: str) -> None:
    """Raise InvalidSpec if transformers computes the weight of a linear layer from other tensors.

    Such a layer is quantized, and may get an adapter, but no merge could write its weights.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            raise InvalidSpec(
                f"the files of model {source} contain the transposed weight of {name}, to which no "
                "merge can add an adapter: choose a model of another family"
            )
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" in names.converted:
            raise InvalidSpec(
                f"transformers computes {name}.weight of model {source} from other tensors, so an "
                "adapter for it cannot be merged: choose a model of another family"
            )


def has_decoder(model: Any) -> bool:
    """Report whether a model of transformers names its decoder, unlike Llama 4."""
    return model.base_model is not model


def _require_decoder(model: Any, *, source: str) -> None:
    """Raise InvalidSpec if the libraries cannot find the decoder layers."""
    if not has_decoder(model):
        raise InvalidSpec(
            f"the trainer cannot train model {source}, because {type(model).__name__} of "
            "transformers does not name its decoder: choose a model of another family"
        )


def _require_quantizable(model: Any, *, source: str) -> None:
    """Raise InvalidSpec if no layer of a model would be quantized."""
    head = model.get_output_embeddings()
    modules = (module for module in model.modules() if module is not head)
    if not any(map(special_layers.is_quantized, modules)):
        raise InvalidSpec(
            f"the trainer cannot quantize model {source}, because {type(model).__name__} of "
            "transformers has no layer of the class Linear: choose a model of another family"
        )


def require_untied(folder: Path, names: Collection[str], *, source: str) -> None:
    """Raise InvalidSpec if ``names`` are not a separate embedding and head of the model.

    ``names`` are those of ``training.lora.modulesToSave``. If embedding and head share one tensor,
    PEFT trains a copy of each, and a merged model cannot contain both.
    """
    model = text_model.build(folder)
    ends = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    by_name = {
        name.rpartition(".")[2]: end
        for name, module in model.named_modules()
        for end, its in ends.items()
        if module is its
    }
    missing = sorted(set(names) - set(by_name))
    if missing:
        has = ", ".join(f"its {end} is {name}" for name, end in by_name.items())
        raise InvalidSpec(
            f"training.lora.modulesToSave contains {', '.join(missing)}, which model {source} does "
            f"not have ({has}): remove the missing names from the list"
        )
    embedding, head = (ends[end] for end in ("embedding", "head"))
    if head is not None and head.weight is embedding.weight:
        raise InvalidSpec(
            f"training.lora.modulesToSave contains {', '.join(names)}, but the embedding and the "
            f"head of model {source} are one tensor (tie_word_embeddings), and training would "
            "split them: remove modulesToSave, or choose a base with a separate head"
        )


def layers(folder: Path) -> attention_layers.Layers:
    """Return what the layers of the model need. Raises InvalidSpec if it cannot be built."""
    return attention_layers.inspect(text_model.build(folder))


def ends(folder: Path, header: Header) -> dict[str, str | None]:
    """Return the tensors of the embedding and of the head in the files; equal if they are tied."""
    model = text_model.build(folder)
    stored = tensor_names.find(folder, header.tensors).parameters
    weights = {
        "embedding": model.get_input_embeddings().weight,
        "head": model.get_output_embeddings().weight,
    }
    tensors: dict[str, str | None] = {}
    for end, weight in weights.items():
        same = [
            name
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter is weight and name in stored
        ]
        tensors[end] = stored[same[0]] if same else None
    return tensors


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
