"""Settings that a backend may change silently, especially on a CPU: a short training each."""

import json
from pathlib import Path
from typing import Any

from bench.table import table
from bench.training import runs, workload

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


def measure(folder: Path, backends: list[str], *, cap: int | None) -> str:
    """Train a tiny model with each setting; report log lines or the error."""
    workload.write_model(folder / "model", "tiny")
    workload.write_rows(folder / "rows", 200)
    rows = []
    for backend in backends:
        for at, (what, setting) in enumerate(SETTINGS.items()):
            print(f"==> {backend}: {what}", flush=True)
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
            prepared = workload.prepare(folder, f"setting-{backend}-{at}", training=training)
            rows.append((f"`{backend}`", what, _outcome(prepared, cap)))
    return table(("backend", "setting", "result"), rows)


def _outcome(prepared: workload.Prepared, cap: int | None) -> str:
    try:
        ended = runs.run("ours", prepared, cap=cap)
    except runs.Failed as failed:
        return f"failed: {failed.reason}"
    facts = json.loads((prepared.work / "adapter" / "manifest.json").read_text())["facts"]
    said = [line for line in ended.log if any(word in line.lower() for word in SAYS)]
    return "; ".join([f"trained, attention {facts['attention']}", *said])
