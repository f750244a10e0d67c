"""The model that a job trains: the text model of its base, as transformers builds it.

A base for text and images contains a text model and further parts. Only the text model is loaded,
adapted, scored and merged. For a base for text alone, it is the whole model.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_trainer.checkpointing.safetensors_header import read_header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_config, base_files, special_layers
from finetune_trainer.volume.files import read_json

INHERITED = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Values that the published models set for the whole model only."""
HEAD = "lm_head.weight"


def load_config(folder: Path) -> Any:
    """Return the configuration of the text model of a base, as an object of transformers."""
    whole = _whole_config(folder)
    if not is_multimodal(whole):
        return whole
    text = copy.deepcopy(whole.get_text_config(decoder=True))
    for name in INHERITED:
        if getattr(whole, name, None) is not None:
            setattr(text, name, getattr(whole, name))
    # transformers leaves a head apart that has weights of its own, whatever config.json states.
    text.tie_word_embeddings = bool(whole.tie_word_embeddings) and not _has_head(folder)
    text.architectures = [architecture(text.model_type)]
    return text


def is_multimodal(config: Any) -> bool:
    """Report whether a configuration of transformers has one of a text model inside."""
    return "text_config" in type(config).sub_configs


def architecture(family: str) -> str | None:
    """Return the name of the causal language model of a ``model_type``; None if there is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str | None = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    return name


def extracted(folder: Path) -> str | None:
    """Return the architecture of the text model of a multimodal base; None for any other base."""
    if not is_multimodal(_whole_config(folder)):
        return None
    name: str = load_config(folder).architectures[0]
    return name


def described(folder: Path) -> dict[str, Any]:
    """Return the configuration of the text model like a config.json.

    Published models leave out values that are defaults of transformers. For the text model of a
    multimodal base they are filled in; config.json of any other base is returned as it is.
    """
    if not is_multimodal(_whole_config(folder)):
        return read_json(folder / base_files.CONFIG)
    config: dict[str, Any] = load_config(folder).to_dict()
    return config


def build(folder: Path) -> Any:
    """Return the text model on torch's meta device, where weights take no memory."""
    from transformers import AutoModelForCausalLM

    config = load_config(folder)
    special_layers.use_plain_linear(config.model_type)
    with _on_meta():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model


def build_whole(folder: Path) -> Any:
    """Return the model of a multimodal base with all its parts on torch's meta device."""
    from transformers import AutoModelForMultimodalLM

    with _on_meta():
        return AutoModelForMultimodalLM.from_config(_whole_config(folder), trust_remote_code=False)


@contextmanager
def _on_meta() -> Iterator[None]:
    import torch

    try:
        with torch.device("meta"):
            yield
    except Exception as error:
        # Nothing is read but the configuration: whatever the model raises is due to its values.
        raise InvalidSpec(
            f"the model cannot be built from its config.json ({one_line(error, 300)}): "
            f"{base_config.ADVICE}"
        ) from error


def _whole_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _has_head(folder: Path) -> bool:
    """Report whether a base contains a head; before the weights are downloaded, by its index."""
    if (folder / base_files.INDEX).is_file():
        names = read_json(folder / base_files.INDEX)["weight_map"].keys()
    else:
        shards = sorted(path.name for path in folder.glob("*.safetensors"))
        names = read_header(folder, shards).tensors.keys()
    return any(name == HEAD or name.endswith(f".{HEAD}") for name in names)
