"""Checks that the configuration and the weights of a base match, from file headers and on a CPU.

The model is built from its configuration on torch's meta device, where weights take no memory, and
its parameters are compared with the tensors in the files. Without this check, a layer whose weights
are missing would be initialized at random and trained.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from finetune_api.contracts.redaction import one_line
from finetune_trainer.checkpointing.safetensors_header import Header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import attention_layers


def check(folder: Path, header: Header, *, source: str) -> None:
    """Raise InvalidSpec if weights are missing or have another shape than config.json states.

    transformers renames or fuses the tensors of some families as it loads them. Their files contain
    names that the model does not have; then only the shapes of equal names are compared.
    """
    expected = parameters(folder)
    for name, shape in expected.items():
        found = header.tensors.get(name)
        if found is not None and found.shape != shape:
            raise InvalidSpec(
                f"config.json and weights of model {source} do not match: the shape of {name} is "
                f"{_times(shape)} in config.json, but {_times(found.shape)} in the weights; choose "
                "another revision"
            )
    missing = [name for name in expected if name not in header.tensors]
    if missing and header.tensors.keys() <= expected.keys():
        raise InvalidSpec(
            f"config.json and weights of model {source} do not match: the weights lack "
            f"{missing[0]} (missing tensors in total: {len(missing)}); choose another revision"
        )


def require_untied(folder: Path, names: Collection[str], *, source: str) -> None:
    """Raise InvalidSpec if ``names`` are not a separate embedding and head of the model.

    ``names`` are those of ``training.lora.modulesToSave``. If embedding and head share one tensor,
    PEFT trains a copy of each, and a merged model cannot contain both.
    """
    model = _built(folder)
    ends = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    found = {
        name.rpartition(".")[2]: end
        for name, module in model.named_modules()
        for end, its in ends.items()
        if module is its
    }
    missing = sorted(set(names) - set(found))
    if missing:
        has = ", ".join(f"its {end} is {name}" for name, end in found.items())
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


def parameters(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of the model; tied parameters appear once."""
    # named_parameters lists a tied parameter under its first name only, as the files do.
    return {name: tuple(each.shape) for name, each in _built(folder).named_parameters()}


def layers(folder: Path) -> attention_layers.Layers:
    """Return what the layers of the model need. Raises InvalidSpec if it cannot be built."""
    return attention_layers.inspect(_built(folder))


def ends(folder: Path) -> dict[str, str]:
    """Return the names of the weights of the embedding and of the head; equal if they are tied."""
    model = _built(folder)
    weights = {
        "embedding": model.get_input_embeddings().weight,
        "head": model.get_output_embeddings().weight,
    }
    # A tied parameter appears under its first name, which is that of the files.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {end: names[id(weight)] for end, weight in weights.items()}


def _built(folder: Path) -> Any:
    """Return the model that config.json describes, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        # Nothing is read but the configuration: whatever the model raises is due to its values.
        raise InvalidSpec(
            f"the model cannot be built from its config.json ({one_line(error, 300)}): choose "
            "another model or revision"
        ) from error
    model.tie_weights()
    return model


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
