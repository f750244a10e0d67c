"""The data files of a dataset, row by row, each row with its place for error messages.

JSON lines (also under the name .json), JSON arrays, Parquet and CSV. A repository's split is found
by its files' names, the way the hub's own viewer does it.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_trainer.errors import DatasetInvalid

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
"""Formats that are read; where a repository holds several, the first of them."""
NOT_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row and where it is: the line of a JSON-lines file, else its number, both from 1."""

    file: str
    number: int
    values: dict[str, Any]

    @property
    def place(self) -> str:
        """The row's place in words."""
        return f"row {self.number} of {self.file}"


def files_of_split(names: Iterable[str], split: str, *, source: str) -> list[str]:
    """Choose the data files of ``split`` among a repository's files."""
    data = sorted(
        name
        for name in names
        if name.endswith(SUFFIXES)
        and PurePosixPath(name).name not in NOT_DATA
        and not name.startswith(".")
    )
    if not data:
        raise DatasetInvalid(
            f"dataset {source} holds no data file: it needs {', '.join(SUFFIXES)} files"
        )
    wanted = SPLIT_WORDS.get(split.lower(), split.lower())
    by_split: dict[str, list[str]] = {}
    for name in data:
        words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
        known = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
        literal = rf"(?<![a-z0-9]){re.escape(split.lower())}(?![a-z0-9])"
        named = wanted in words or re.search(literal, name.lower()) is not None
        own = wanted if named else (known[-1] if known else "")
        by_split.setdefault(own, []).append(name)
    chosen = by_split.get(wanted, [])
    if not chosen and wanted == "train" and set(by_split) == {""}:
        # Files that name no split at all are the training split, as on the hub.
        chosen = by_split[""]
    if not chosen:
        raise DatasetInvalid(
            f"dataset {source} has no files for split {split!r}; it has {_few(data)}: "
            "correct dataset.split"
        )
    for suffix in SUFFIXES:
        same = [name for name in chosen if name.endswith(suffix)]
        if same:
            return same
    return chosen


def read(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a data file; ``name`` is what messages call it."""
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, name)
        elif name.endswith(".csv"):
            yield from _csv(path, name)
        else:
            yield from _json(path, name)
    except UnicodeDecodeError as error:
        raise DatasetInvalid(
            f"{name} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error


def _json(path: Path, name: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        if first == "[":
            yield from _array(file.read(), name)
            return
        # Not str.splitlines: it also splits at characters that may stand inside a JSON string.
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DatasetInvalid(
                    f"row {number} of {name} is no JSON ({error}): write one JSON object a line"
                ) from error
            yield Row(file=name, number=number, values=_object(values, number, name))


def _array(text: str, name: str) -> Iterator[Row]:
    try:
        rows = json.loads(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise DatasetInvalid(f"{name} is no JSON: {error}") from error
    for number, values in enumerate(rows, start=1):
        yield Row(file=name, number=number, values=_object(values, number, name))


def _object(values: object, number: int, name: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DatasetInvalid(
            f"row {number} of {name} is a JSON {type(values).__name__} instead of an object: "
            'write rows as {"column": value, …}'
        )
    return values


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(file=name, number=number, values=values)
    except pyarrow.ArrowException as error:
        raise DatasetInvalid(f"{name} is no readable Parquet file: {error}") from error


def _csv(path: Path, name: str) -> Iterator[Row]:
    # A field may hold a whole document; the csv module's own limit is 128 KiB.
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for number, values in enumerate(reader, start=1):
                if None in values:
                    raise DatasetInvalid(
                        f"row {number} of {name} has more fields than the header: quote fields "
                        "that hold commas"
                    )
                yield Row(file=name, number=number, values=values)
        except csv.Error as error:
            raise DatasetInvalid(f"line {reader.line_num} of {name} is no CSV: {error}") from error


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
