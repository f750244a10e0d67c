"""Tensors of a safetensors file, mapped from disk: only the pages that are read take memory."""

import mmap
from pathlib import Path

import torch

from finetune_trainer.checkpointing.safetensors_header import header_of

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "U64": torch.uint64,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class Mapped:
    """A safetensors file. Tensors that it hands out are views and must not be written to."""

    def __init__(self, path: Path) -> None:
        """Map a file."""
        self._entries, self._start = header_of(path)
        with path.open("rb") as file:
            # Copy-on-write, since torch takes no read-only buffer without a warning.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor."""
        entry = self._entries[name]
        start, end = entry["data_offsets"]
        dtype = TORCH_TYPES[entry["dtype"]]
        if start == end:
            return torch.empty(entry["shape"], dtype=dtype)
        count = (end - start) // dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._start + start)
        return flat.reshape(entry["shape"])
