"""Converts ``datasets`` to ``dataset`` or ``datasets``, ``test_datasets`` to an evaluation dataset.

A list with one entry becomes ``spec.dataset``, a longer one ``spec.datasets``. One template renders
all datasets of a job.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.rows import CONVERSATIONS
from finetune_api.v1alpha1.sources import HF_SOURCE
from finetune_cli.axolotl.messages import conversation
from finetune_cli.axolotl.reader import Settings
from finetune_trainer.errors import InvalidSpec

SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[:(?P<rows>[1-9][0-9]*)\])?")
NAME_LENGTH = 20
"""Characters of the name of a dataset, without the number that makes it unique."""
TEXTS = ("completion", "pretrain")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset of the configuration: its settings, and its rows in a FineTuneJob."""

    settings: Settings
    rows: dict[str, Any]

    @property
    def is_conversation(self) -> bool:
        """Whether the rows are conversations, which a chat template renders."""
        return self.rows["format"] in (*CONVERSATIONS, "auto")


def training_entries(settings: Settings) -> list[Entry]:
    """Return the training datasets. Raises InvalidSpec if there are none."""
    return [*_entries(settings, "datasets", configmap="rows")]


def training_data(
    settings: Settings, entries: list[Entry], *, template: str | None
) -> dict[str, Any]:
    """Return ``dataset`` or ``datasets`` of the spec. template: a chat template of the job."""
    common: dict[str, Any] = {}
    if all(entry.rows["format"] == "alpaca" for entry in entries):
        for entry in entries:
            _note_alpaca(entry.settings)
        if not any(_is_custom(entry.settings) for entry in entries):
            common["promptTemplate"] = "alpaca"
    elif any(entry.is_conversation for entry in entries):
        for entry in entries:
            if entry.rows["format"] == "alpaca":
                entry.settings.changed("type", "the chat template renders all datasets of the job")
    if template is not None:
        common["chatTemplate"] = template
    common["validationFraction"] = _validation(settings)
    if settings.take("dataset_exact_deduplication"):
        common["duplicates"] = "drop"
    for entry in entries:
        entry.settings.finish()
    first, *others = (entry.rows for entry in entries)
    if not others:
        return {"dataset": first | common}
    names = _names(entries)
    named = [{"name": name, **rows} for name, rows in zip(names, (first, *others), strict=True)]
    return {"datasets": [named[0] | common, *named[1:]]}


def evaluation_dataset(settings: Settings) -> dict[str, Any] | None:
    """Return ``spec.evaluation.dataset``; None if ``test_datasets`` is not set."""
    if not settings.take("test_datasets"):
        return None
    first, *others = _entries(settings, "test_datasets", configmap="evaluation-rows")
    if others:
        settings.dropped(
            "test_datasets",
            f"has {1 + len(others)} datasets, but the job evaluates only on the first dataset: to "
            "use all datasets, combine them in one repository",
        )
    first.settings.finish()
    if first.rows["source"].startswith("hf://"):
        # The default split of test_datasets in Axolotl.
        return {"split": "test"} | first.rows
    return first.rows


def _entries(settings: Settings, group: str, *, configmap: str) -> Iterable[Entry]:
    """Yield the datasets of a list; ``configmap`` is the source of those that are on no hub."""
    found = settings.take(group)
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise InvalidSpec(f"{group} is missing or empty: set a dataset with path and type")
    for at, values in enumerate(found):
        one = Settings(values, settings.notes, at=f"{group}[{at}].")
        own = configmap if at == 0 else f"{configmap}-{at + 1}"
        yield Entry(settings=one, rows=_rows(one, configmap=own))


def _rows(one: Settings, *, configmap: str) -> dict[str, Any]:
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
            f"keeps one of {shards} shards: Axolotl trains on 1/{shards} of the rows "
            f"({100 / float(shards):.3g} %), but the job trains on all rows. To train on fewer "
            "rows, set dataset.maxSamples",
        )
    return result


def _names(entries: list[Entry]) -> list[str]:
    """Return a unique name for each dataset, from its path."""
    names: list[str] = []
    for entry in entries:
        path = str(entry.settings.take("path")).rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        plain = re.sub(r"[^a-z0-9]+", "-", path.lower())[:NAME_LENGTH].strip("-") or "rows"
        candidates = (plain, *(f"{plain}-{number}" for number in range(2, len(entries) + 2)))
        names.append(next(each for each in candidates if each not in names))
    return names


def _split(one: Settings) -> dict[str, Any]:
    """Return ``split`` and ``maxSamples``. Raises InvalidSpec for other expressions."""
    value = one.take("split")
    if value is None:
        return {}
    found = SPLIT.fullmatch(str(value))
    if found is None:
        raise InvalidSpec(
            f"{one.named('split')} is not supported, because a job reads a whole split or its "
            "first rows: for the first 1000 rows, write train[:1000]"
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
        "is not a hub repository, so the job reads the rows from a ConfigMap: create it (kubectl "
        f"create configmap {configmap} --from-file=rows.jsonl), or put the rows into a dataset "
        "repository and set source to hf://organization/name",
    )
    return f"configmap://{configmap}/rows.jsonl"


def _format(one: Settings) -> dict[str, Any]:
    kind = one.take("type")
    if isinstance(kind, dict):
        one.dropped(
            "type",
            "is a custom prompt: the job uses the chat template of the base model instead. If the "
            "base model has no chat template, the job uses the Alpaca prompt. To use the Alpaca "
            "prompt in both cases, set promptTemplate: alpaca",
        )
        columns = {part: kind.get(f"field_{part}") for part in ("instruction", "input", "output")}
        return _with_columns("alpaca", columns)
    name = str(kind or "")
    base = name.split(".")[0].split(":")[0]
    if base in TEXTS:
        return _with_columns("text", {"text": one.take("field")})
    if found := conversation(one, base):
        return found
    if base.startswith("alpaca"):
        if base != "alpaca":
            one.dropped(
                "type",
                "the job uses format: alpaca; check that the prompt template and the column names "
                "of the job match your rows",
            )
        return {"format": "alpaca"}
    one.dropped(
        "type", "the job sets format: auto; convert the rows if the prepare stage rejects them"
    )
    return {"format": "auto"}


def _is_custom(one: Settings) -> bool:
    return isinstance(one.take("type"), dict)


def _note_alpaca(one: Settings) -> None:
    if not _is_custom(one):
        one.equivalent(
            "type",
            "Axolotl uses the Alpaca prompt even if the model has a chat template, so the job sets "
            "promptTemplate: alpaca. To use the chat template of the model, remove promptTemplate",
        )


def _with_columns(format_: str, columns: dict[str, Any]) -> dict[str, Any]:
    named = {part: name for part, name in columns.items() if name and name != part}
    return {"format": format_, **({"columns": named} if named else {})}


def _validation(settings: Settings) -> float:
    size = settings.take("val_set_size") or 0
    if 0 <= size <= 0.5:
        return float(size)
    settings.changed(
        "val_set_size",
        "is not in the range of validationFraction, 0 to 0.5, so the job sets "
        "validationFraction: 0.05",
    )
    return 0.05
