"""Checks the values in config.json and generation_config.json of a base before anything uses them.

A repository controls these values. Without this check, a value of a wrong type would end a pod with
an InternalError, which the operator attempts again, and possibly only on a GPU.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_trainer.attention import library_config
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.volume.files import read_json

CONFIG, GENERATION = "config.json", "generation_config.json"
ADVICE = "choose another model or revision"


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_ids(value: Any) -> bool:
    return all(
        type(token_id) is int for token_id in (value if isinstance(value, list) else [value])
    )


FIELDS = {
    "model_type": (_is_text, "a string"),
    "text_config": (_is_object, "an object"),
    "quantization_config": (_is_object, "an object"),
    "vocab_size": (_is_size, "a positive integer"),
    "max_position_embeddings": (_is_size, "a positive integer"),
    "attention_dropout": (_is_number, "a number"),
    "attn_logit_softcapping": (_is_number, "a number"),
    "final_logit_softcapping": (_is_number, "a number"),
    "eos_token_id": (_is_ids, "an integer or a list of integers"),
}
"""Fields that the trainer reads itself, and their type. transformers checks the other fields."""


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Report whether a config.json describes a text model as a part of a larger model."""
    return _is_object(config.get("text_config"))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the text model, which a job trains.

    Published models leave out values that are defaults of transformers.
    """
    if not is_multimodal(config):
        return config
    return {"tie_word_embeddings": config.get("tie_word_embeddings", True), **config["text_config"]}


def check_fields(document: Mapping[str, Any], *, file: str, source: str) -> None:
    """Raise InvalidSpec for a value that the trainer cannot use, or that selects a hub kernel."""
    text = document.get("text_config")
    for fields in (document, text if isinstance(text, dict) else {}):
        for name, (is_valid, kind) in FIELDS.items():
            value = fields.get(name)
            if value is not None and not is_valid(value):
                raise InvalidSpec(
                    f"{name} in {file} of model {source} is {one_line(repr(value), 80)}, which is "
                    f"not {kind}: {ADVICE}"
                )
    for name, value in _implementations(document):
        # transformers would download the kernel, which is code, from the hub, and run it.
        if "/" in value:
            raise InvalidSpec(
                f"{name} in {file} of model {source} is {one_line(repr(value), 80)}, which "
                "requires code of a repository. The trainer never runs code of a repository: "
                f"{ADVICE}"
            )


def check_library(folder: Path, config: Mapping[str, Any], *, source: str) -> None:
    """Raise InvalidSpec if transformers cannot use config.json or generation_config.json.

    config: config.json, of a family that transformers knows.
    """
    from transformers import GenerationConfig

    def generation_config(document: Mapping[str, Any]) -> None:
        GenerationConfig.from_dict(copy.deepcopy(dict(document)))

    documents: dict[str, tuple[Callable[[Mapping[str, Any]], Any], Mapping[str, Any]]] = {
        CONFIG: (library_config.of, config)
    }
    if (folder / GENERATION).is_file():
        generation = read_json(folder / GENERATION)
        check_fields(generation, file=GENERATION, source=source)
        documents[GENERATION] = (generation_config, generation)
    for file, (read, document) in documents.items():
        try:
            read(document)
        except Exception as error:
            # The classes only read the document: whatever they raise is due to its values.
            raise InvalidSpec(
                f"{file} of model {source} has a value that transformers cannot use "
                f"({one_line(error, 300)}): {ADVICE}"
            ) from error


def type_of_text_model(config: Mapping[str, Any]) -> str:
    """Return the ``model_type`` of the text model, with the defaults of transformers.

    config: a config.json that ``check_library`` accepts.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[config["model_type"]]
    if "text_config" not in kind.sub_configs:
        return str(config["model_type"])
    return str(library_config.of(config).get_text_config(decoder=True).model_type)


def _implementations(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the texts in fields such as ``attn_implementation``, also of nested objects."""
    rest: list[tuple[str, Any]] = [("", document)]
    while rest:
        name, value = rest.pop()
        if isinstance(value, Mapping):
            below = "implementation" in name
            rest += [(name if below else key, inner) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [(name, inner) for inner in value]
        elif isinstance(value, str) and "implementation" in name:
            yield name, value
