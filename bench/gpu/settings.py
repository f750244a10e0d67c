"""Settings that a backend may change silently, especially on a CPU: a short training each."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.gpu.pieces import Measurement
from bench.gpu.training import Workplace
from bench.training import runs

SETTINGS: dict[str, dict[str, Any]] = {
    "paged 8-bit optimizer": {"advanced": {"optimizer": "paged_adamw_8bit"}},
    "8-bit optimizer": {"advanced": {"optimizer": "adamw_8bit"}},
    "packing": {"packing": "always"},
    "FlashAttention-2": {"advanced": {"attnImplementation": "flash_attention_2"}},
    "float16 with loss scaling": {
        "advanced": {"quantization": {"computeDtype": "float16"}},
    },
    "TensorFloat-32 off": {"advanced": {"tf32": False}},
}
SAYS = ("stays", "not supported", "falling back", "instead")
"""Words in log lines about a setting that was changed or restored."""


def measurements(work: Workplace, backends: list[str]) -> Iterator[tuple[str, Measurement]]:
    """Yield the measurements: a short training of a tiny model with each setting."""
    for backend in backends:
        for what, setting in SETTINGS.items():
            yield f"settings/{backend}/{what}", partial(_measure, work, backend, setting)


def _measure(work: Workplace, backend: str, setting: dict[str, Any]) -> dict[str, Any]:
    advanced = {
        "backend": backend,
        "microBatchSize": 1,
        "overlong": "truncate",
        **setting.get("advanced", {}),
    }
    training = {
        "maxSteps": 3,
        "effectiveBatchSize": 2,
        "sequenceLength": 1024,
        "packing": "never",
        **setting,
        "advanced": advanced,
    }
    folder = work.folder / "settings"
    folder.mkdir(exist_ok=True)
    prepared = Workplace(folder=folder, shape="tiny", cap=work.cap).prepare(
        f"setting-{backend}", training=training
    )
    try:
        ended = runs.run("ours", prepared, cap=work.cap)
        facts = json.loads((prepared.work / "adapter" / "manifest.json").read_text())["facts"]
    finally:
        prepared.remove()
    said = [line for line in ended.log if any(word in line.lower() for word in SAYS)]
    return {"attention": facts["attention"], "log": said}
