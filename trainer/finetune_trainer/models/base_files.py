"""Selects the files of a model repository that are downloaded, and refuses unusable repositories.

Weights are safetensors, exactly those in the index. Python code and pickles of a repository are
never downloaded.
"""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_config
from finetune_trainer.sources import Repository
from finetune_trainer.volume.files import read_json

CONFIG = base_config.CONFIG
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Files of a tokenizer. They are copied to the merged model unchanged."""
OTHERS = ("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")


def side_files(names: Iterable[str]) -> list[str]:
    """Return the files of a base other than weights."""
    patterns = (CONFIG, *TOKENIZER, *OTHERS)
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))


def is_tokenizer(name: str) -> bool:
    """Report whether a file is part of the tokenizer."""
    return any(fnmatch(name, pattern) for pattern in TOKENIZER)


def check_listing(repository: Repository) -> None:
    """Raise InvalidSpec if the list of files shows that a repository has no usable base."""
    names = repository.files
    if CONFIG not in names and any(name.startswith("adapter_") for name in names):
        raise InvalidSpec(
            f"model {repository.name} is an adapter, not a base: set model.source to the base "
            "model of this adapter"
        )
    if CONFIG not in names:
        raise InvalidSpec(
            f"model {repository.name} has no {CONFIG}: set model.source to a repository in the "
            "format of transformers"
        )
    if INDEX in names or SINGLE in names:
        return
    if any(name.endswith(PICKLES) for name in names):
        raise InvalidSpec(
            f"model {repository.name} has its weights only as pickles, which are never loaded "
            "because they can run code: choose a repository or revision with safetensors"
        )
    if any(name.endswith(".gguf") for name in names):
        raise InvalidSpec(
            f"model {repository.name} has GGUF files only: choose the repository with the "
            "original safetensors"
        )
    raise InvalidSpec(
        f"model {repository.name} has neither {INDEX} nor {SINGLE}: choose a repository with "
        "safetensors"
    )


def weight_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the names of the weight files. The index, if there is one, is in ``folder``."""
    if INDEX not in names:
        return [SINGLE]
    index = read_json(folder / INDEX)
    try:
        shards = sorted(set(index["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise InvalidSpec(
            f"{INDEX} of the model has no weight_map: choose another revision"
        ) from error
    for shard in shards:
        if shard not in names or "/" in shard or not shard.endswith(".safetensors"):
            raise InvalidSpec(
                f"{INDEX} of the model lists {shard!r}, which is not a safetensors file in the "
                "repository: choose a complete revision"
            )
    return shards


def check_config(folder: Path, *, source: str) -> dict[str, Any]:
    """Return config.json. Raises InvalidSpec for a base that this trainer cannot train."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_json(folder / CONFIG)
    base_config.check_fields(config, file=CONFIG, source=source)
    family = config.get("model_type")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InvalidSpec(
            f"model {source} is already quantized ({method}): choose a repository with 16-bit "
            "weights of this model; the train stage quantizes them"
        )
    if family not in CONFIG_MAPPING_NAMES:
        needs = (
            f", and {CONFIG} requires Python code of the repository (auto_map), which the trainer "
            "never runs"
            if "auto_map" in config
            else ""
        )
        raise InvalidSpec(
            f"model {source} is of type {family!r}, which transformers does not know{needs}: "
            "choose a model that transformers supports"
        )
    base_config.check_library(folder, config, source=source)
    trained = base_config.type_of_text_model(config)
    if trained not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InvalidSpec(
            f"model {source} is of type {trained!r}, which is not the type of a causal language "
            "model: choose a model that generates text"
        )
    return config
