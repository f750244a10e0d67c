"""Peak memory compared with the estimate, and tokens per second with plain scripts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.gpu.pieces import Measurement
from bench.gpu.training import Workplace
from bench.training import runs
from bench.training.runs import Run
from bench.training.workload import Prepared

STEPS, DRY_STEPS = 12, 4
"""The results of a run without a GPU do not count."""
PLAIN = "plain script"
DEFAULT = "default"
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    PLAIN: {},
    "Liger's layers": {"ligerLayers": True},
    "Liger's loss": {"ligerFusedLinearCrossEntropy": True},
}
"""Fields of ``training.advanced`` by variant. The plain script trains on the default's volume."""


def measurements(work: Workplace, backends: list[str]) -> Iterator[tuple[str, Measurement]]:
    """Yield the measurements: the default recipe on rows of full length, and its variants."""
    for backend in backends:
        for variant, advanced in VARIANTS.items():
            if not advanced or (backend == "trl" and work.cap):
                yield (
                    f"memory/{backend}/{variant}",
                    partial(_measure, work, backend, variant, advanced),
                )


def _measure(
    work: Workplace, backend: str, variant: str, advanced: dict[str, Any]
) -> dict[str, Any]:
    name = f"memory-{backend}-{list(VARIANTS).index(variant) if advanced else 0}"
    steps = STEPS if work.cap else DRY_STEPS
    prepared = work.default_recipe(name, backend=backend, steps=steps, **advanced)
    run = runs.run(backend if variant == PLAIN else "ours", prepared, cap=work.cap)
    return {
        "estimated": prepared.estimated,
        "peak": run.peak,
        "secondsPerStep": runs.median([run]),
        "tokensPerSecond": _speed(run, prepared),
    }


def _speed(run: Run, prepared: Prepared) -> float:
    facts = prepared.facts
    tokens = 8 * facts["trainTokens"] / facts["sequences"]
    return float(tokens / runs.median([run]))
