"""Reads blocks, lines and JSON arrays of data files in bounded memory.

At most one row of ``LONGEST_ROW`` bytes is in memory, whatever the file contains. A single line of
a gigabyte, or a file that decompresses to a thousand times its size, is refused early.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from finetune_api.safety import untrusted_file, untrusted_json
from finetune_trainer.errors import DatasetInvalid

BLOCK = 1 << 20
LONGEST_ROW = 16 << 20
"""Bytes of one row. The longest sequence that a spec allows has about 4 MiB of text."""
EXPANSION = 100
"""Allowed ratio of decompressed to compressed size; text seldom exceeds 20."""
ALWAYS_ALLOWED = 64 << 20
"""Decompressed bytes that are allowed whatever the ratio."""
OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file (its name must end in .gz)",
    b"PAR1": "a Parquet file (its name must end in .parquet)",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x80\x04": "a pickle, which is never loaded since it can run code",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer to a file in Git LFS, not the file itself",
}


def is_bomb(unpacked: int, packed: int) -> bool:
    """Report whether ``packed`` bytes that decompress to ``unpacked`` are a decompression bomb."""
    return unpacked > ALWAYS_ALLOWED + EXPANSION * packed


def blocks(path: Path, name: str) -> Iterator[bytes]:
    """Yield a file in blocks of bytes, decompressed if its name ends in .gz."""
    first = True
    with untrusted_file.open_buffered(path) as raw:
        file: gzip.GzipFile | IO[bytes] = (
            gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
        )
        while block := _read(file, name):
            if first:
                _refuse_other_kinds(block, name)
            first = False
            yield block


def require_intact(path: Path, name: str) -> None:
    """Decompress a gzip file once, so that damage is found before rows are processed."""
    packed, total = path.stat().st_size, 0
    for block in blocks(path, name):
        total += len(block)
        if is_bomb(total, packed):
            raise DatasetInvalid(
                f"{name} decompresses to more than {EXPANSION} times its size of {packed} bytes, "
                "which is not plausible for a dataset. Check how the file was created, or store it "
                "uncompressed"
            )


def _read(file: gzip.GzipFile | IO[bytes], name: str) -> bytes:
    try:
        return file.read(BLOCK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetInvalid(
            f"{name} is not a valid gzip file ({error}): compress it again or store it uncompressed"
        ) from error


def _refuse_other_kinds(block: bytes, name: str) -> None:
    for mark, kind in OTHER_KINDS.items():
        if block.startswith(mark):
            rename = "rename the file, or " if "its name" in kind else ""
            raise DatasetInvalid(
                f"{name} is {kind}: {rename}store the rows as UTF-8 JSON Lines, CSV or Parquet"
            )


def lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a file, without line ends and byte order mark."""
    number, rest = 0, b""
    for block in blocks(path, name):
        whole = (rest + block).split(b"\n")
        rest = whole.pop()
        for line in whole:
            number += 1
            yield number, _text(line, number, name)
        _refuse_long(len(rest), number + 1, name)
    if rest:
        yield number + 1, _text(rest, number + 1, name)


def _text(line: bytes, number: int, name: str) -> str:
    _refuse_long(len(line), number, name)
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetInvalid(
            f"row {number} of {name} is not UTF-8 (byte {error.start + 1} of the line is "
            f"{line[error.start]:#04x}): save the file as UTF-8"
        ) from error


def _refuse_long(size: int, number: int, name: str) -> None:
    if size > LONGEST_ROW:
        raise DatasetInvalid(
            f"row {number} of {name} is longer than {LONGEST_ROW >> 20} MiB: write one row per "
            "line and split documents that are longer than training.sequenceLength"
        )


def parsed(text: str) -> Any:
    """Return the JSON value of one row. Raise ValueError with the problem and a remediation."""
    try:
        return untrusted_json.parse(text)
    except ValueError as error:
        problem = str(error)
    hint = "write one JSON object per line"
    if text.lstrip().startswith("{'"):
        hint += ", with double quotes (json.dumps, not str)"
    elif text.strip() in ("{", "[") or text.rstrip().endswith(","):
        hint += ", or one JSON array of objects in a file that ends in .json"
    raise ValueError(f"is not valid JSON ({problem}): {hint}")


def elements(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, value) of the elements of a JSON array, one at a time."""
    text = _Text(path, name)
    decoder = json.JSONDecoder()
    text.skip("[")
    number = 0
    while text.next() != "]":
        if number:
            text.skip(",")
        number += 1
        yield number, text.value(decoder, number)
    text.skip("]")
    if text.next():
        raise DatasetInvalid(f"{name} has text after the end of its array: remove this text")


class _Text:
    """A window on the text of a file that only moves forward."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._blocks = blocks(path, name)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._done = "", 0, 0

    def _more(self) -> bool:
        block = next(self._blocks, None)
        try:
            added = self._decoder.decode(block or b"", final=block is None)
        except UnicodeDecodeError as error:
            raise DatasetInvalid(
                f"{self._name} is not UTF-8 after row {self._done} ({error.reason}): save it as "
                "UTF-8"
            ) from error
        self._text = self._text[self._at :] + added
        self._at = 0
        return block is not None

    def next(self) -> str:
        """Return the next non-space character without consuming it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def skip(self, wanted: str) -> None:
        """Consume one character, which must be ``wanted``."""
        character = self.next()
        if character != wanted:
            actual = f"{character!r}" if character else "the end of the file"
            raise DatasetInvalid(
                f"{self._name} is not valid JSON. After row {self._done}, {wanted!r} is expected, "
                f"but {actual} was found: write one array of objects"
            )
        self._at += 1

    def value(self, decoder: json.JSONDecoder, number: int) -> Any:
        """Consume one JSON value."""
        self.next()
        while True:
            try:
                untrusted_json.check_depth(self._text, self._at)
                value, end = decoder.raw_decode(self._text, self._at)
            except untrusted_json.NestedTooDeeply as error:
                problem = str(error)
            except ValueError as error:
                problem = str(error)
                # The value may be cut off by the end of the window.
                size = len(self._text) - self._at
                if size <= LONGEST_ROW and self._more():
                    continue
                _refuse_long(size, number, self._name)
            else:
                self._at, self._done = end, number
                return value
            raise DatasetInvalid(
                f"row {number} of {self._name} is not valid JSON ({problem}). The file must be one "
                "array of objects: correct the row"
            )
