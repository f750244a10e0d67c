"""Converts ``datasets`` to ``dataset`` or ``datasets``, ``test_datasets`` to an evaluation dataset.

A list with one entry becomes ``spec.dataset``, unless it has a weight; other lists become
``spec.datasets``. One template renders all datasets of a job.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.data.rows import CONVERSATIONS
from finetune_cli.axolotl.reader import Settings
from finetune_cli.axolotl.row_format import is_custom, row_format
from finetune_cli.axolotl.sources import source

SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[:(?P<rows>[1-9][0-9]*)(?P<percent>%)?\])?")
COPIED = {"revision": "revision"}
"""Setting of a dataset → field of the job with the same text."""
NAME_LENGTH = 20
"""Characters of the name of a dataset, without the number that makes it unique."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset of the configuration: its settings, and its rows in a FineTuneJob.

    shares: setting → the share of the rows that it selects.
    """

    settings: Settings
    rows: dict[str, Any]
    shares: dict[str, float]

    @property
    def is_conversation(self) -> bool:
        """Whether the rows are conversations, which a chat template renders."""
        return self.rows["format"] in CONVERSATIONS

    @property
    def is_alpaca(self) -> bool:
        """Whether Axolotl renders the rows with the Alpaca prompt."""
        return self.rows["format"] == "alpaca" and not is_custom(self.settings)


def training_entries(settings: Settings) -> list[Entry]:
    """Return the training datasets. Raises Refusal if there are none."""
    return [*_entries(settings, "datasets", configmap="rows")]


def training_data(
    settings: Settings, entries: list[Entry], *, template: str | None
) -> dict[str, Any]:
    """Return ``dataset`` or ``datasets`` of the spec. template: a chat template of the job."""
    common: dict[str, Any] = {}
    if template is not None:
        common["chatTemplate"] = template
    common["validationFraction"] = _validation(settings)
    if settings.flag("dataset_exact_deduplication"):
        common["duplicates"] = "drop"
    rows = [entry.rows | _weight(entry) for entry in entries]
    _set_prompt(entries, rows)
    for entry in entries:
        entry.settings.finish()
    first, *others = rows
    if not others and "weight" not in first:
        return {"dataset": first | common}
    named = [{"name": name, **fields} for name, fields in zip(_names(entries), rows, strict=True)]
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
    for key in first.shares:
        first.settings.dropped(key, "the job evaluates on all rows of the split")
    first.settings.finish()
    if first.rows["source"].startswith("hf://"):
        # The default split of test_datasets in Axolotl.
        return {"split": "test"} | first.rows
    return first.rows


def _entries(settings: Settings, group: str, *, configmap: str) -> Iterable[Entry]:
    """Yield the datasets of a list; ``configmap`` is the source of those that are on no hub."""
    datasets = settings.take(group)
    well_formed = isinstance(datasets, list) and all(
        isinstance(dataset, dict) for dataset in datasets
    )
    if not datasets or not well_formed:
        raise settings.refusal(group, "must be a list of datasets: set path and type of one")
    for at, values in enumerate(datasets):
        dataset = Settings(values, settings.notes, at=f"{group}[{at}].")
        own = configmap if at == 0 else f"{configmap}-{at + 1}"
        yield _entry(dataset, configmap=own)


def _entry(dataset: Settings, *, configmap: str) -> Entry:
    rows: dict[str, Any] = {"source": source(dataset, configmap=configmap), **row_format(dataset)}
    for key, name in COPIED.items():
        if (value := dataset.text(key)) is not None:
            rows[name] = value
    if rows["source"].startswith("hf://") and (config := dataset.text("name")) is not None:
        rows["config"] = config
    shares: dict[str, float] = {}
    if (split := _split(dataset)) is not None:
        if not rows["source"].startswith("configmap://"):
            rows["split"] = split["name"]
        if split["percent"]:
            shares["split"] = int(split["rows"]) / 100
        elif split["rows"]:
            rows["maxSamples"] = int(split["rows"])
    shards = dataset.integer("shards")
    dataset.take("shards_idx", "preprocess_shards")
    if shards is not None and shards > 1:
        shares["shards"] = 1 / shards
    return Entry(settings=dataset, rows=rows, shares=shares)


def _split(dataset: Settings) -> re.Match[str] | None:
    """Return the parts of ``split``, None if it is not set. Raises Refusal for others."""
    value = dataset.text("split")
    if value is None:
        return None
    split = SPLIT.fullmatch(value)
    if split is None or (split["percent"] and int(split["rows"]) > 100):
        raise dataset.refusal(
            "split",
            "is not supported, because a job reads a whole split, its first rows or a share of "
            "its rows: for the first 1000 rows, write train[:1000]; for a tenth of the rows, "
            "write train[:10%]",
        )
    return split


def _weight(entry: Entry) -> dict[str, float]:
    """Return ``weight`` for a dataset of which a share is used, otherwise nothing."""
    weight = 1.0
    for share in entry.shares.values():
        weight *= share
    weight = float(f"{weight:.4g}")
    for key in entry.shares:
        entry.settings.changed(
            key,
            f"the job sets weight: {weight:g}. Each epoch uses this share of the rows, drawn with "
            "training.seed; the held-out rows are drawn from all rows of the split",
        )
    return {"weight": weight} if entry.shares else {}


def _set_prompt(entries: list[Entry], rows: list[dict[str, Any]]) -> None:
    """Set the Alpaca prompt where Axolotl uses it; with conversations, the job cannot have it."""
    conversations = any(entry.is_conversation for entry in entries)
    alpaca = [at for at, entry in enumerate(entries) if entry.is_alpaca]
    for at in alpaca:
        if conversations:
            entries[at].settings.changed(
                "type", "the chat template renders all datasets of the job"
            )
        else:
            entries[at].settings.equivalent(
                "type",
                "Axolotl uses the Alpaca prompt even if the model has a chat template, so the job "
                "sets promptTemplate: alpaca. To use the chat template of the model, remove "
                "promptTemplate",
            )
    if alpaca and not conversations:
        rows[alpaca[0]]["promptTemplate"] = "alpaca"


def _names(entries: list[Entry]) -> list[str]:
    """Return a unique name for each dataset, from its path."""
    names: list[str] = []
    for entry in entries:
        path = str(entry.settings.take("path")).rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        plain = re.sub(r"[^a-z0-9]+", "-", path.lower())[:NAME_LENGTH].strip("-") or "rows"
        candidates = (plain, *(f"{plain}-{number}" for number in range(2, len(entries) + 2)))
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def _validation(settings: Settings) -> float:
    size = settings.number("val_set_size") or 0.0
    if 0 <= size <= 0.5:
        return size
    settings.changed(
        "val_set_size",
        "is not in the range of validationFraction, 0 to 0.5, so the job sets "
        "validationFraction: 0.05",
    )
    return 0.05
