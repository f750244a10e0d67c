"""Peak memory compared with the estimate, and tokens per second with plain scripts."""

from pathlib import Path
from typing import Any

from bench.table import table
from bench.training import runs, workload
from bench.training.runs import Run
from bench.training.workload import Prepared

STEPS, LENGTH = 12, 4096
DRY_STEPS, DRY_LENGTH = 4, 256
"""Values for a run without a GPU, whose results do not count."""
NOT_MEASURED = "not measured"
GOAL = 0.05


def measure(folder: Path, backends: list[str], *, cap: int | None) -> str:
    """Train the default recipe on rows of full length, with our trainer and a plain script."""
    rows = []
    for backend in backends:
        print(f"==> {backend}: memory and speed", flush=True)
        steps = STEPS if cap else DRY_STEPS
        prepared = prepare(folder, f"memory-{backend}", backend=backend, steps=steps, cap=cap)
        ours = runs.run("ours", prepared, cap=cap)
        plain = runs.run(backend, prepared, cap=cap)
        rows.append(
            (
                f"`{backend}`",
                _gib(prepared.estimated),
                *_peak(ours, prepared),
                _gib(plain.peak),
                f"{_speed(ours, prepared):.0f}",
                f"{_speed(plain, prepared):.0f}",
            )
        )
        prepared.remove()
    return table(
        (
            "backend",
            "estimated",
            "peak",
            "difference (goal: 5 %)",
            "peak of a plain script",
            "tokens/s",
            "tokens/s of a plain script",
        ),
        rows,
    )


def prepare(
    folder: Path,
    name: str,
    *,
    backend: str,
    steps: int,
    cap: int | None,
    deterministic: bool = False,
    **advanced: Any,
) -> Prepared:
    """Prepare the default recipe, packed, with the micro-batch chosen for an A10G."""
    training: dict[str, Any] = {
        "maxSteps": steps,
        "packing": "always",
        "sequenceLength": LENGTH if cap else DRY_LENGTH,
        "deterministic": deterministic,
        "advanced": {"backend": backend, "overlong": "truncate", "saveSteps": steps} | advanced,
    }
    first = workload.prepare(folder, f"{name}-picked", training=training, card="NVIDIA-A10G")
    # Give the plain script the micro-batch that ours chose.
    picked = (first.facts.get("estimate") or {}).get("microBatch", 1)
    training["advanced"]["microBatchSize"] = picked
    first.remove()
    return workload.prepare(folder, name, training=training, card="NVIDIA-A10G")


def _peak(run: Run, prepared: Prepared) -> tuple[str, str]:
    if run.peak is None or prepared.estimated is None:
        return NOT_MEASURED, NOT_MEASURED
    return _gib(run.peak), f"{100 * (prepared.estimated / run.peak - 1):+.1f} %"


def _speed(run: Run, prepared: Prepared) -> float:
    facts = prepared.facts
    tokens = 8 * facts["trainTokens"] / facts["sequences"]
    return float(tokens / runs.median([run]))


def _gib(bytes_: int | None) -> str:
    return NOT_MEASURED if bytes_ is None else f"{bytes_ / 2**30:.2f} GiB"
