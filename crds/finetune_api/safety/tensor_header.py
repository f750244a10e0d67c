"""Headers of safetensors files that a repository or a volume controls.

Format: https://github.com/huggingface/safetensors#format
"""

import math
import struct
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file, untrusted_json

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4}
BYTES |= {"F16": 2, "BF16": 2, "I16": 2, "U16": 2}
BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
LIMIT = 100_000_000
"""Maximum size of a header in bytes, as defined by the format."""


def read(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's header and the offset of its data section.

    Raise OSError, or ValueError if the file is not well-formed.
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
    except (KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(str(error)) from error
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
