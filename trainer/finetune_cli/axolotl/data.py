"""Converts ``datasets`` to ``spec.dataset``, ``test_datasets`` to ``spec.evaluation.dataset``."""

import re
from typing import Any

from finetune_api.v1alpha1.sources import HF_SOURCE
from finetune_cli.axolotl.reader import Settings
from finetune_trainer.errors import InvalidSpec

SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[:(?P<rows>[1-9][0-9]*)\])?")
ROLES = ("message_field_role", "message_field_content")
FORMATS = {
    "alpaca": "alpaca",
    "chat_template": "messages",
    "messages": "messages",
    "completion": "text",
    "pretrain": "text",
}
"""Type in Axolotl → format in a FineTuneJob."""


def dataset(settings: Settings) -> dict[str, Any]:
    """Return ``spec.dataset``. Raises InvalidSpec if no training dataset is set."""
    one, result = _first(settings, "datasets", configmap="rows")
    if result["format"] == "alpaca" and not isinstance(one.take("type"), dict):
        one.equivalent(
            "type",
            "uses the Alpaca prompt even if the model has a chat template: the job sets "
            "promptTemplate: alpaca; remove it to train with the chat template of the model",
        )
        result["promptTemplate"] = "alpaca"
    result["validationFraction"] = _validation(settings)
    if settings.take("dataset_exact_deduplication"):
        result["duplicates"] = "drop"
    return result


def evaluation_dataset(settings: Settings) -> dict[str, Any] | None:
    """Return ``spec.evaluation.dataset``; None if ``test_datasets`` is not set."""
    if not settings.take("test_datasets"):
        return None
    _, result = _first(settings, "test_datasets", configmap="evaluation-rows")
    if result["source"].startswith("hf://"):
        # The default split of test_datasets in Axolotl.
        result.setdefault("split", "test")
    return result


def _first(settings: Settings, group: str, *, configmap: str) -> tuple[Settings, dict[str, Any]]:
    """Return the first dataset of a list; ``configmap`` is its source if it is not on a hub."""
    found = settings.take(group)
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise InvalidSpec(f"{group} is missing or empty: set one dataset with path and type")
    if len(found) > 1:
        settings.dropped(
            group,
            f"has {len(found)} datasets, and the job uses only the first: combine them in one "
            "repository",
        )
    one = Settings(found[0], settings.notes, at=f"{group}[0].")
    result: dict[str, Any] = {"source": _source(one, configmap), **_format(one)}
    if (revision := one.take("revision")) is not None:
        result["revision"] = str(revision)
    result |= _split(one)
    if result["source"].startswith("configmap://"):
        result.pop("split", None)
    shards = one.take("shards")
    one.take("shards_idx", "preprocess_shards")
    if shards is not None:
        one.dropped(
            "shards",
            f"keeps one shard of {shards}: Axolotl trains on 1/{shards} of the rows "
            f"({100 / float(shards):.3g} %); this job trains on all of them: set "
            "dataset.maxSamples to train on fewer",
        )
    one.finish()
    return one, result


def _split(one: Settings) -> dict[str, Any]:
    """Return ``split`` and ``maxSamples``. Raises InvalidSpec for other expressions."""
    value = one.take("split")
    if value is None:
        return {}
    found = SPLIT.fullmatch(str(value))
    if found is None:
        raise InvalidSpec(
            f"{one.named('split')} is not supported: a job reads a whole split, or its first rows; "
            "write train[:1000] for the first 1000 rows"
        )
    rows = {} if found["rows"] is None else {"maxSamples": int(found["rows"])}
    return {"split": found["name"], **rows}


def _source(one: Settings, configmap: str) -> str:
    path = str(one.take("path") or "")
    if not path:
        raise InvalidSpec(
            f"{one.at}path is missing: set it to a dataset repository on the Hugging Face Hub, "
            "as organization/name"
        )
    kind = one.take("ds_type", "data_files")
    source = path if "://" in path else f"hf://{path}"
    if kind is None and re.fullmatch(HF_SOURCE, source):
        return source
    one.dropped(
        "path",
        "is not a hub repository: put the rows into a ConfigMap (kubectl create configmap "
        f"{configmap} --from-file=rows.jsonl) or into a dataset repository, and set "
        "dataset.source to it",
    )
    return f"configmap://{configmap}/rows.jsonl"


def _format(one: Settings) -> dict[str, Any]:
    kind = one.take("type")
    if isinstance(kind, dict):
        one.dropped(
            "type",
            "is a custom prompt: rows are rendered with the chat template of the "
            "base, or with the Alpaca prompt if dataset.promptTemplate is alpaca",
        )
        columns = {part: kind.get(f"field_{part}") for part in ("instruction", "input", "output")}
        return _with_columns("alpaca", columns)
    name = str(kind or "")
    base = name.split(".")[0].split(":")[0]
    if base.startswith("alpaca") and base != "alpaca":
        one.dropped(
            "type",
            "the job uses alpaca: check the prompt and the names of the columns",
        )
        base = "alpaca"
    if base not in FORMATS:
        one.dropped(
            "type",
            "the job sets format: messages: convert the rows to it",
        )
        base = "chat_template"
    format_ = FORMATS[base]
    if format_ == "alpaca":
        return {"format": format_}
    if format_ == "messages":
        column = one.take("field_messages")
        _note_messages(one)
        return _with_columns(format_, {"messages": column})
    return _with_columns(format_, {"text": one.take("field")})


def _note_messages(one: Settings) -> None:
    mapping = one.take("message_property_mappings") or {}
    old = {name.removeprefix("message_field_"): one.take(name) for name in ROLES}
    found = {key: value for key, value in {**old, **dict(mapping)}.items() if value}
    names = {part: found.get(part, part) for part in ("role", "content")}
    if names != {"role": "role", "content": "content"}:
        key = "message_property_mappings" if mapping else "message_field_role"
        sharegpt = " (ShareGPT)" if names == {"role": "from", "content": "value"} else ""
        one.dropped(
            key,
            f"the messages have the properties {names['role']} and {names['content']}{sharegpt}: "
            "convert them to role and content, otherwise the prepare stage rejects the rows",
        )
    trained = one.take("roles_to_train")
    if trained not in (None, ["assistant"], ["gpt"]):
        one.dropped("roles_to_train", "the loss covers the messages of the assistant")
    for key, same in (("train_on_eos", "turn"), ("train_on_eot", "turn")):
        if one.take(key) not in (None, same):
            one.dropped(key, "the loss covers the end of each answer")
    if one.take("message_field_training", "message_field_training_detail"):
        one.dropped("message_field_training", "the loss covers all messages of the assistant")


def _with_columns(format_: str, columns: dict[str, Any]) -> dict[str, Any]:
    named = {part: name for part, name in columns.items() if name and name != part}
    return {"format": format_, **({"columns": named} if named else {})}


def _validation(settings: Settings) -> float:
    size = settings.take("val_set_size") or 0
    if 0 <= size <= 0.5:
        return float(size)
    settings.changed(
        "val_set_size",
        "is a number of rows, but dataset.validationFraction is a fraction: the job uses 0.05",
    )
    return 0.05
