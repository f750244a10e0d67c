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

from finetune_api.safety import tensor_header
from finetune_trainer.errors import InvalidSpec

FLOATS = ("F64", "F32", "F16", "BF16")


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
    try:
        return tensor_header.read(path)
    except ValueError as error:
        raise InvalidSpec(
            f"{path.name} of the model is not a valid safetensors file ({error}): choose another "
            "revision, or replace the file"
        ) from None


def encode_header(entries: dict[str, Any]) -> bytes:
    """Return length and header as bytes, padded as safetensors pads them."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
