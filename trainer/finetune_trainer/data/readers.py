"""The data files of a dataset, row by row, each row with its place for error messages.

JSON lines (also under the name .json), JSON arrays and CSV, each also gzipped, and Parquet. A
repository's split is found by its files' names, the way the hub's own viewer does it.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data import bounded_reader
from finetune_trainer.errors import DatasetInvalid

PLAIN = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (".parquet", *(suffix + packed for suffix in PLAIN for packed in ("", ".gz")))
"""Formats that are read; where a repository holds several, the first of them."""
READ = "Parquet, JSON lines (.jsonl), JSON arrays (.json) and CSV, the latter also with .gz"
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
BATCH_ROWS = 1024
BATCH_BYTES = 32 << 20
"""How much of a Parquet file is unpacked at once, about."""


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


def files_of_split(
    names: Iterable[str], split: str, *, source: str, kind: Kind = "dataset"
) -> list[str]:
    """Choose the data files of ``split`` among a repository's files."""
    everything = sorted(names)
    data = [
        name
        for name in everything
        if name.endswith(SUFFIXES)
        and PurePosixPath(name).name not in NOT_DATA
        and not name.startswith(".")
    ]
    if not data:
        there = f"; it has {_few(everything)}" if everything else ""
        raise DatasetInvalid(
            f"{kind} {source} holds no data file{there}: {READ} are read; archives have to be "
            "unpacked first"
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
            f"{kind} {source} has no files for split {split!r}; it has {_few(data)}: "
            f"correct {kind}.split"
        )
    for suffix in SUFFIXES:
        same = [name for name in chosen if name.endswith(suffix)]
        if same:
            return same
    return chosen


def read(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a data file; ``name`` is what messages call it."""
    plain = name.removesuffix(".gz")
    if plain != name:
        bounded_reader.require_intact(path, name)
    if plain.endswith(".parquet"):
        return _parquet(path, name)
    if plain.endswith(".csv"):
        return _csv(path, name)
    if plain.endswith(PLAIN):
        return _json(path, name)
    raise DatasetInvalid(f"{name} is of no kind that is read: {READ} are")


def _json(path: Path, name: str) -> Iterator[Row]:
    if _begins_with_array(path, name):
        for number, values in bounded_reader.elements(path, name):
            yield Row(file=name, number=number, values=_object(values, number, name))
        return
    for number, line in bounded_reader.lines(path, name):
        if line.strip():
            values = bounded_reader.parsed(line, number, name)
            yield Row(file=name, number=number, values=_object(values, number, name))


def _begins_with_array(path: Path, name: str) -> bool:
    """Tell whether a file is one JSON array, whatever its name says."""
    first = next(bounded_reader.blocks(path, name), b"").removeprefix(codecs.BOM_UTF8).lstrip()
    return first.startswith(b"[")


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

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size, texts = _batch_rows(file.metadata, name), _texts(file.metadata)
        # As dictionaries: a text that is stored once for many rows stays one until its row's turn.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=size):
                for piece in _pieces(batch):
                    if piece.num_rows == 1 and _unpacked(piece) > bounded_reader.LONGEST_ROW:
                        raise DatasetInvalid(
                            f"row {number + 1} of {name} is longer than the "
                            f"{bounded_reader.LONGEST_ROW >> 20} MiB that a row may have: "
                            "remove it, or the columns that are not trained on"
                        )
                    for values in piece.to_pylist():
                        number += 1
                        yield Row(file=name, number=number, values=values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())[:200]
        raise DatasetInvalid(
            f"{name} is no readable Parquet file after row {number} ({text}): write it again"
        ) from error


def _batch_rows(metadata: Any, name: str) -> int:
    """Return how many rows are unpacked at once, from what the file says of its row groups."""
    largest = 1
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        columns = [group.column(each) for each in range(group.num_columns)]
        unpacked = sum(each.total_uncompressed_size for each in columns)
        packed = sum(each.total_compressed_size for each in columns)
        if bounded_reader.is_bomb(unpacked, packed):
            raise DatasetInvalid(
                f"{name} unpacks to more than {bounded_reader.EXPANSION} times its size, "
                "as no data does: check how the file was made, or write it without compression"
            )
        mean = unpacked // max(1, group.num_rows)
        if mean > bounded_reader.LONGEST_ROW:
            raise DatasetInvalid(
                f"the rows of {name} have {mean >> 20} MiB on average, more than the "
                f"{bounded_reader.LONGEST_ROW >> 20} MiB that a row may have: "
                "remove the columns that are not trained on"
            )
        largest = max(largest, mean)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def _texts(metadata: Any) -> list[str]:
    """Return the paths of the columns that hold text."""
    columns = (metadata.schema.column(at) for at in range(len(metadata.schema)))
    return [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]


def _pieces(batch: Any) -> Iterator[Any]:
    """Yield a batch in parts that unpack to ``bounded.LONGEST_ROW`` bytes, or are one row."""
    if batch.num_rows <= 1 or _unpacked(batch) <= bounded_reader.LONGEST_ROW:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _unpacked(found: Any) -> int:
    """Return the bytes of a batch's or an array's values, each text counted as often as it is."""
    import pyarrow
    import pyarrow.compute  # type: ignore[import-untyped]

    if isinstance(found, pyarrow.RecordBatch | pyarrow.StructArray):
        parts = found.columns if isinstance(found, pyarrow.RecordBatch) else found.flatten()
        return sum(map(_unpacked, parts))
    if isinstance(found, pyarrow.DictionaryArray):
        lengths = pyarrow.compute.binary_length(found.dictionary).take(found.indices)
        return int(pyarrow.compute.sum(lengths).as_py() or 0)
    if isinstance(found, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.MapArray):
        # Not by `flatten`: it writes each text of a dictionary out.
        begin, end = found.offsets[0].as_py(), found.offsets[len(found)].as_py()
        of_map = isinstance(found, pyarrow.MapArray)
        parts = (found.keys, found.items) if of_map else (found.values,)
        return sum(_unpacked(part[begin:end]) for part in parts)
    return int(found.nbytes)


_ABSENT: Any = object()


def _csv(path: Path, name: str) -> Iterator[Row]:
    # A field may hold a whole document; the csv module's own limit is 128 KiB.
    csv.field_size_limit(bounded_reader.LONGEST_ROW)
    text = (line + "\n" for _, line in bounded_reader.lines(path, name))
    reader: csv.DictReader[str] = csv.DictReader(text, None, None, _ABSENT, strict=True)
    number = 0
    try:
        header = list(reader.fieldnames or ())
        twice = {column for column in header if header.count(column) > 1}
        if twice:
            raise DatasetInvalid(
                f"the header of {name} names {', '.join(sorted(twice))} twice: rename one of them"
            )
        for number, values in enumerate(reader, start=1):
            fault = "more" if None in values else "fewer" if _ABSENT in values.values() else None
            if fault:
                raise DatasetInvalid(
                    f"row {number} of {name} has {fault} fields than the header "
                    f"({', '.join(header)}): quote fields that hold commas"
                )
            yield Row(file=name, number=number, values=dict(values))
    except csv.Error as error:
        raise DatasetInvalid(
            f"row {number + 1} of {name} is no CSV (after line {reader.line_num}: {error}): double "
            "the quotes inside a field and close each field's own"
        ) from error


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
