"""Read and write headers of safetensors files. Does not import torch.

A header lists the name, shape and type of each tensor, so the size of every byte range of a merged
model is known before the first byte is written. Format:
https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file, untrusted_json
from finetune_trainer.errors import InvalidSpec

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4}
BYTES |= {"F16": 2, "BF16": 2, "I16": 2, "U16": 2}
BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
LIMIT = 100_000_000
"""Maximum size of a header in bytes, as defined by the format."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Name, type, shape and byte range of a tensor, relative to its file's data section."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """All tensors of a model over all shards, in file order."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, dict[str, str]]

    def of_file(self, file: str) -> list[TensorInfo]:
        """Return the tensors of one shard, ordered by offset."""
        inside = [tensor for tensor in self.tensors.values() if tensor.file == file]
        return sorted(inside, key=lambda tensor: tensor.start)


def read_header(folder: Path, files: Iterable[str]) -> Header:
    """Read the headers of all shards of a model. Raise InvalidSpec if a file is malformed."""
    tensors: dict[str, TensorInfo] = {}
    metadata = {}
    for file in files:
        document, _ = header_of(folder / file)
        metadata[file] = document.pop("__metadata__", {})
        for name, entry in document.items():
            if name in tensors:
                raise InvalidSpec(
                    f"tensor {name} of the model is in both {tensors[name].file} and {file}: "
                    "choose a revision that contains it only once"
                )
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
    """Return a file's header and the offset of its data section.

    Raise InvalidSpec, with the file's name, if it is not a well-formed safetensors file.
    """
    size = path.stat().st_size
    try:
        with untrusted_file.open_buffered(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LIMIT, size - 8):
                raise ValueError(f"the header cannot have {length} bytes in a file of {size} bytes")
            document = untrusted_json.parse(file.read(length))
            data = size - 8 - length
            for name, entry in document.items():
                if name != "__metadata__":
                    _check_entry(name, entry, data)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InvalidSpec(
            f"{path.name} of the model is not a valid safetensors file ({error}): choose another "
            "revision, or replace the file"
        ) from None
    return document, 8 + length


def _check_entry(name: str, entry: dict[str, Any], data: int) -> None:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in BYTES:
        raise ValueError(f"{name} has the unsupported type {kind}")
    if not 0 <= start <= end <= data:
        raise ValueError(f"{name} is at bytes {start} to {end}, but the data has {data} bytes")
    if math.prod(shape) * BYTES[kind] != end - start:
        raise ValueError(
            f"{name} has {end - start} bytes, which does not match {kind} of shape {shape}"
        )


def encode_header(entries: dict[str, Any]) -> bytes:
    """Return length and header as bytes, padded as safetensors pads them."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
