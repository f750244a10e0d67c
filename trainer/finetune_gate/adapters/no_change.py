"""An adapter that changes nothing: vLLM answers with the base, from a slot like any other.

On a CPU, vLLM applies the adapter in its last slot to requests without an adapter, as soon as they
share a batch with others. This slot does not stay empty: an unloaded adapter keeps its slot until
another one needs it, so every slot is taken after some rollouts, or after a restart of the gate.
With this adapter, no request of the gate is without one, and no other request reaches vLLM.
"""

import asyncio
import json
import math
import secrets
import shutil
import struct
from pathlib import Path

from finetune_gate.adapters.copy import CONFIG, PARTS, PREFIX, WEIGHTS, Base
from finetune_gate.engine import Engine, LoadFailed
from finetune_verify.errors import Mismatch, Unavailable


async def load(engine: Engine, folder: Path, base: Base) -> None:
    """Make the adapter in a folder below ``folder``, load it, and let the base answer with it.

    Raise Mismatch, LoadFailed or Unavailable.
    """
    internal = f"base-{secrets.token_hex(8)}"
    target = folder / internal
    try:
        await asyncio.to_thread(write, target, base)
        await engine.load(internal, target)
    except (LoadFailed, Unavailable, OSError) as error:
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        if isinstance(error, OSError):
            raise Unavailable(
                f"the adapter that changes nothing is not written: {error}"
            ) from error
        raise
    engine.base = internal


def write(folder: Path, base: Base) -> None:
    """Write an adapter of rank 1 whose matrices are zero. Blocks. Raise Mismatch or OSError."""
    module, (outputs, inputs) = _module(base)
    config = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "bias": "none",
        # vLLM leaves all modules unchanged of which the file has no matrices.
        "target_modules": [module.rpartition(".")[2]],
    }
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config))
    shapes = dict(zip(PARTS, ((1, inputs), (outputs, 1)), strict=True))
    (folder / WEIGHTS).write_bytes(
        _zeros({f"{PREFIX}{module}{part}": shape for part, shape in shapes.items()})
    )


def _module(base: Base) -> tuple[str, tuple[int, ...]]:
    """Return a module that the engine can adapt, and its shape."""
    for name, shape in sorted(base.shapes.items()):
        module = name.removesuffix(".weight")
        if module != name and module.rpartition(".")[2] in base.modules and len(shape) == 2:
            return module, shape
    raise Mismatch(
        f"the base has none of the modules {', '.join(sorted(base.modules))}, which the engine "
        "adapts: an endpoint cannot serve adapters of this base"
    )


def _zeros(shapes: dict[str, tuple[int, int]]) -> bytes:
    """Return a safetensors file of zeros in float32."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)
