"""Reads data files row by row, each row with its position for error messages.

Formats are JSON lines (also named .json), JSON arrays and CSV, each also with gzip, and Parquet.
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_trainer.data.rows import bounded_reader
from finetune_trainer.errors import DatasetInvalid

PLAIN = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (".parquet", *(suffix + packed for suffix in PLAIN for packed in ("", ".gz")))
"""File extensions that are read; if a repository has several, the first one is used."""
READ = (
    "Parquet (.parquet), JSON Lines (.jsonl or .ndjson), JSON arrays (.json) and CSV (.csv); all "
    "except Parquet may be compressed with gzip (.gz)"
)
BATCH_ROWS = 1024
BATCH_BYTES = 32 << 20
"""Approximate bytes of a Parquet file that are decompressed at once."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row and its position: the line of a JSON-lines file, otherwise its number; both from 1.

    problem: why the row cannot be read; empty if it can. The rows after it can be read.
    """

    file: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def place(self) -> str:
        """The position of the row, for messages."""
        return f"row {self.number} of {self.file}"


def read(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a data file; messages call it ``name``. Raises DatasetInvalid."""
    plain = name.removesuffix(".gz")
    if plain != name:
        bounded_reader.require_intact(path, name)
    if plain.endswith(".parquet"):
        return _parquet(path, name)
    if plain.endswith(".csv"):
        return _csv(path, name)
    if plain.endswith(PLAIN):
        return _json(path, name)
    raise DatasetInvalid(f"{name} has an unsupported format. Supported formats: {READ}")


def _json(path: Path, name: str) -> Iterator[Row]:
    if _begins_with_array(path, name):
        for number, values in bounded_reader.elements(path, name):
            yield _row(values, number, name)
        return
    for number, line in bounded_reader.lines(path, name):
        if line.strip():
            try:
                values = bounded_reader.parsed(line)
            except ValueError as error:
                yield Row(file=name, number=number, problem=str(error))
            else:
                yield _row(values, number, name)


def _begins_with_array(path: Path, name: str) -> bool:
    """Report whether a file contains a JSON array, whatever its name."""
    first = next(bounded_reader.blocks(path, name), b"").removeprefix(codecs.BOM_UTF8).lstrip()
    return first.startswith(b"[")


def _row(values: object, number: int, name: str) -> Row:
    if isinstance(values, dict):
        return Row(file=name, number=number, values=values)
    problem = (
        f"is a JSON {type(values).__name__} instead of an object: write rows as "
        '{"column": value, …}'
    )
    return Row(file=name, number=number, problem=problem)


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size, texts = _batch_rows(file.metadata, name), _texts(file.metadata)
        # As dictionaries: a text that many rows share is not copied until its row is read.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=size):
                for piece in _pieces(batch):
                    if piece.num_rows == 1 and _unpacked(piece) > bounded_reader.LONGEST_ROW:
                        raise DatasetInvalid(
                            f"row {number + 1} of {name} is longer than "
                            f"{bounded_reader.LONGEST_ROW >> 20} MiB: "
                            "remove the row, or the columns that training does not use"
                        )
                    for values in piece.to_pylist():
                        number += 1
                        yield Row(file=name, number=number, values=values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetInvalid(
            f"{name} is not readable as Parquet after row {number} ({one_line(error)}): create the "
            "file again"
        ) from error


def _batch_rows(metadata: Any, name: str) -> int:
    """Return the rows to decompress at once, from the metadata of the row groups."""
    largest = 1
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        columns = [group.column(column) for column in range(group.num_columns)]
        unpacked = sum(column.total_uncompressed_size for column in columns)
        packed = sum(column.total_compressed_size for column in columns)
        if bounded_reader.is_bomb(unpacked, packed):
            raise DatasetInvalid(
                f"{name} decompresses to more than {bounded_reader.EXPANSION} times its size, "
                "which is not plausible for a dataset. Check how the file was created, or write it "
                "without compression"
            )
        mean = unpacked // max(1, group.num_rows)
        if mean > bounded_reader.LONGEST_ROW:
            raise DatasetInvalid(
                f"the rows of {name} have {mean >> 20} MiB on average, but at most "
                f"{bounded_reader.LONGEST_ROW >> 20} MiB per row are allowed: "
                "remove the columns that training does not use"
            )
        largest = max(largest, mean)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def _texts(metadata: Any) -> list[str]:
    """Return the paths of the text columns."""
    columns = (metadata.schema.column(at) for at in range(len(metadata.schema)))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _pieces(batch: Any) -> Iterator[Any]:
    """Yield a batch in parts of at most ``LONGEST_ROW`` decompressed bytes, or of one row."""
    if batch.num_rows <= 1 or _unpacked(batch) <= bounded_reader.LONGEST_ROW:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _unpacked(array: Any) -> int:
    """Return the bytes of all values; a shared text counts once for each row that has it."""
    import pyarrow
    import pyarrow.compute  # type: ignore[import-untyped]

    if isinstance(array, pyarrow.RecordBatch | pyarrow.StructArray):
        parts = array.columns if isinstance(array, pyarrow.RecordBatch) else array.flatten()
        return sum(map(_unpacked, parts))
    if isinstance(array, pyarrow.DictionaryArray):
        lengths = pyarrow.compute.binary_length(array.dictionary).take(array.indices)
        return int(pyarrow.compute.sum(lengths).as_py() or 0)
    if isinstance(array, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.MapArray):
        # Without flatten(), which copies each text of a dictionary.
        begin, end = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        of_map = isinstance(array, pyarrow.MapArray)
        parts = (array.keys, array.items) if of_map else (array.values,)
        return sum(_unpacked(part[begin:end]) for part in parts)
    return int(array.nbytes)


_ABSENT: Any = object()


def _csv(path: Path, name: str) -> Iterator[Row]:
    # A field may contain a whole document; the default limit of the csv module is 128 KiB.
    csv.field_size_limit(bounded_reader.LONGEST_ROW)
    text = (line + "\n" for _, line in bounded_reader.lines(path, name))
    reader: csv.DictReader[str] = csv.DictReader(text, None, None, _ABSENT, strict=True)
    number = 0
    try:
        header = list(reader.fieldnames or ())
        twice = {column for column in header if header.count(column) > 1}
        if twice:
            raise DatasetInvalid(
                f"the header of {name} has these columns more than once: "
                f"{', '.join(sorted(twice))}. Rename the columns"
            )
        for number, values in enumerate(reader, start=1):
            fault = "more" if None in values else "fewer" if _ABSENT in values.values() else None
            if fault:
                problem = (
                    f"has {fault} fields than the header ({', '.join(header)}): quote fields that "
                    "contain commas"
                )
                yield Row(file=name, number=number, problem=problem)
            else:
                yield Row(file=name, number=number, values=dict(values))
    except csv.Error as error:
        raise DatasetInvalid(
            f"row {number + 1} of {name} is not valid CSV (after line {reader.line_num}: {error}): "
            "write double quotes inside a field twice, and close each quoted field"
        ) from error
