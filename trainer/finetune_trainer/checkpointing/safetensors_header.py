"""The safetensors format, as far as streaming needs it: headers read and written.

Free of torch: a header says every name, shape and type, and therefore every byte that a merged
model will have, before the first one is written.
"""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidSpec

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4}
BYTES |= {"F16": 2, "BF16": 2, "I16": 2, "U16": 2}
BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
LIMIT = 100_000_000
"""Bytes that the format allows a header to have."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a tensor looks like and where it is, counted from the start of its file's data."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """All tensors of a model, over all its shards, in the order in which they lie there."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, dict[str, str]]

    def of_file(self, file: str) -> list[TensorInfo]:
        """Tensors of one shard, by their place in it."""
        inside = [tensor for tensor in self.tensors.values() if tensor.file == file]
        return sorted(inside, key=lambda tensor: tensor.start)


def read_header(folder: Path, files: Iterable[str]) -> Header:
    """Read the headers of a model's shards."""
    tensors: dict[str, TensorInfo] = {}
    metadata = {}
    for file in files:
        document, _ = header_of(folder / file)
        metadata[file] = document.pop("__metadata__", {})
        for name, entry in document.items():
            if name in tensors:
                raise InvalidSpec(f"tensor {name} is in {tensors[name].file} and in {file}")
            start, end = entry["data_offsets"]
            tensors[name] = TensorInfo(
                name=name,
                file=file,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=start,
                end=end,
            )
    return Header(tensors=tensors, metadata=metadata)


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's header and the offset at which its data starts."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LIMIT, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            document = json.loads(file.read(length))
            data = size - 8 - length
            for name, entry in document.items():
                if name != "__metadata__":
                    _require_sound(name, entry, data)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InvalidSpec(
            f"{path.name} of the model is no intact safetensors file: {error}"
        ) from None
    return document, 8 + length


def _require_sound(name: str, entry: dict[str, Any], data: int) -> None:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in BYTES:
        raise ValueError(f"{name} is of the type {kind}, which nothing here can read")
    if not 0 <= start <= end <= data:
        raise ValueError(f"{name} is at {start} to {end} of {data} bytes")
    if math.prod(shape) * BYTES[kind] != end - start:
        raise ValueError(f"{name} has {end - start} bytes, which are no {kind} of shape {shape}")


def encode_header(entries: dict[str, Any]) -> bytes:
    """Return the first bytes of a file: length and header, padded as safetensors itself does."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
