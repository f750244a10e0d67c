"""Do a base's configuration and its weights belong together? Answered from headers, on a CPU.

The model is built from its configuration on torch's meta device, where weights take no memory, and
its parameters are compared with the tensors that the files hold. Without this, a layer without
weights is initialised at random and trained on a GPU before anyone notices.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing.safetensors_header import Header
from finetune_trainer.errors import InvalidSpec


def check(folder: Path, header: Header, *, source: str) -> None:
    """Refuse a base whose weights have another shape than its configuration says, or are missing.

    Families whose tensors transformers renames or fuses as it loads them hold names that the model
    does not have; for those only the shapes of equal names are compared.
    """
    expected = parameters(folder)
    for name, shape in expected.items():
        found = header.tensors.get(name)
        if found is not None and found.shape != shape:
            raise InvalidSpec(
                f"model {source} does not belong together: its config.json makes {name} "
                f"{_times(shape)}, its weights have {_times(found.shape)}; choose another revision"
            )
    missing = [name for name in expected if name not in header.tensors]
    if missing and header.tensors.keys() <= expected.keys():
        raise InvalidSpec(
            f"model {source} does not belong together: its config.json asks for {missing[0]} "
            f"({len(missing)} tensors in all), which its weights do not have; choose another "
            "revision"
        )


def require_apart(folder: Path, names: Collection[str], *, source: str) -> None:
    """Refuse to train in full an embedding or head that the model does not have for itself.

    names: of ``training.lora.modulesToSave``. Where both are one tensor, PEFT trains a copy of
    each, and no merged model could be both.
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
            f"training.lora.modulesToSave names {', '.join(missing)}, which model {source} does "
            f"not have ({has}): leave it out"
        )
    embedding, head = (ends[end] for end in ("embedding", "head"))
    if head is not None and head.weight is embedding.weight:
        raise InvalidSpec(
            f"training.lora.modulesToSave names {', '.join(names)}, but embedding and head of "
            f"model {source} are one tensor (tie_word_embeddings), and trained they would be two: "
            "leave modulesToSave out, or choose a base with a head of its own"
        )


def parameters(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters that the configuration asks for, tied ones once."""
    # named_parameters names a tied parameter by its first place only, which is where files keep it.
    return {name: tuple(each.shape) for name, each in _built(folder).named_parameters()}


def _built(folder: Path) -> Any:
    """Return the model that the configuration asks for, with weights that take no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidSpec(f"the model cannot be built from its config.json: {text}") from error
    model.tie_weights()
    return model


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
