"""The merge compared with a copy of the same bytes, its lower bound, and with PEFT's merge.

For each base, rounds of the copy and both merges, each with a cold page cache; then PEFT's load,
merge and save. The copy is cp and a sync of the files. PEFT's files are neither synced nor hashed,
while the time of our merge includes all of that.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.merge import fidelity, models, timed
from bench.table import table, verdict
from finetune_api.contracts.stage_request import MergeStageRequest
from finetune_trainer.volume_layout import Layout

DTYPE = "bfloat16"
"""Type of the bases, so that PEFT loads, adds and saves without a conversion."""
IMPORTS = {
    "cp + sync": (),
    "PEFT": ("torch", "transformers", "peft"),
    "original": ("finetune_trainer.merging.merge",),
    "dequantized": ("finetune_trainer.merging.merge",),
}
"""Modules that are imported before the clock starts."""
HEAD = ("program", "seconds", "ratio to the copy", "speed-up over PEFT", "anonymous memory")
TIMES_COPY = {"original": 1.5, "dequantized": 4.0}
TIMES_PEFT = 2.5
MEMORY = 512 * 2**20
CLOSER = 10.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results for one base: cost of each method, and the shape."""

    shape: models.Shape
    bytes: int
    costs: Mapping[str, timed.Cost]
    same_as_peft: bool
    kl: fidelity.Divergences | None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument(
        "--rounds", type=int, default=3, help="rounds of copy and merges; medians are reported"
    )
    command.add_argument(
        "--work", type=Path, help="keep the volumes in this folder, and reuse existing ones"
    )
    command.add_argument(
        "--shapes",
        nargs="+",
        choices=models.SHAPES,
        default=["small", "wide"],
        help="bases to merge; tiny is a one-minute dry run",
    )


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its tables."""
    work = options.work or Path(tempfile.mkdtemp(prefix="bench-merge-"))
    measured = []
    try:
        for name in options.shapes:
            shape = models.SHAPES[name]
            print(f"==> {shape.name}", flush=True)
            measured.append(_measure(work / name, shape, rounds=options.rounds))
            if options.work is None:
                shutil.rmtree(work / name)
    finally:
        if options.work is None:
            shutil.rmtree(work)
    rounds = f"Rounds: {options.rounds}.\n"
    return "\n".join([rounds, *map(_markdown, measured)])


def stream(work: Path, base: str) -> None:
    """Run the trainer's merge; the build is named after the base."""
    from finetune_trainer.merging import merge
    from finetune_trainer.runtime.progress import Progress

    request = MergeStageRequest.model_validate(
        {"config": "job.json", "work": str(work), "build": base, "dtype": DTYPE, "base": base}
    )
    merge.run(models.job(), Layout(work=work), Progress("merge"), request)


def peft(work: Path) -> None:
    """Load the base, merge the adapter and save, as PEFT documents it."""
    import torch
    import transformers
    from peft import PeftModel

    layout = Layout(work=work)
    dtype = getattr(torch, DTYPE)
    base = transformers.AutoModelForCausalLM.from_pretrained(layout.base, dtype=dtype)
    merged = PeftModel.from_pretrained(base, layout.adapter).merge_and_unload()
    merged.save_pretrained(work / "peft", max_shard_size="1GB")


def copy(work: Path) -> None:
    """Copy the base with cp and sync the copy to disk."""
    target = work / "copy"
    subprocess.run(["cp", "-r", str(Layout(work=work).base), str(target)], check=True)
    subprocess.run(["sync", *map(str, target.iterdir())], check=True)


def _measure(work: Path, shape: models.Shape, *, rounds: int) -> Measured:
    layout = Layout(work=work)
    if not layout.adapter.exists():
        work.mkdir(parents=True, exist_ok=True)
        timed.run(models.make, layout, shape)
    ways: dict[str, tuple[Callable[..., None], tuple[Any, ...], Path]] = {}
    ways["cp + sync"] = copy, (work,), work / "copy"
    for base in TIMES_COPY:
        ways[base] = stream, (work, base), layout.merged(base)
    order = [*list(ways) * rounds, "PEFT"]
    ways["PEFT"] = peft, (work,), work / "peft"
    cold = [path for folder in (layout.base, layout.adapter) for path in folder.iterdir()]
    costs: dict[str, list[timed.Cost]] = {name: [] for name in ways}
    for name in order:
        function, arguments, written = ways[name]
        shutil.rmtree(written, ignore_errors=True)
        os.sync()
        cost = timed.run(function, *arguments, imports=IMPORTS[name], cold=cold)
        costs[name].append(cost)
        print(f"    {name}: {cost.seconds:.2f} s, {_mib(cost)}", flush=True)
    weights = list(layout.base.glob("*.safetensors"))
    return Measured(
        shape=shape,
        bytes=sum(path.stat().st_size for path in weights),
        costs={name: _median(runs) for name, runs in costs.items()},
        same_as_peft=fidelity.same(layout.merged("original"), work / "peft"),
        # In float32, the wide one needs more memory than all other measurements.
        kl=None if shape is models.WIDE else fidelity.divergences(layout),
    )


def _median(costs: list[timed.Cost]) -> timed.Cost:
    return timed.Cost(
        seconds=statistics.median(cost.seconds for cost in costs),
        anonymous=max(cost.anonymous for cost in costs),
    )


def _markdown(measured: Measured) -> str:
    cp, theirs = measured.costs["cp + sync"], measured.costs["PEFT"]
    copied = cp.seconds
    rows = [
        ("`cp` + `sync`", f"{copied:.2f}", "1", "", f"{_mib(cp)} (libraries only)"),
        (
            "PEFT: load, merge, save",
            f"{theirs.seconds:.2f}",
            f"{theirs.seconds / copied:.2f}",
            "1",
            _mib(theirs),
        ),
    ]
    for base, goal in TIMES_COPY.items():
        cost = measured.costs[base]
        times, faster = cost.seconds / copied, theirs.seconds / cost.seconds
        against = f"{faster:.2f}"
        if base == "original":
            against += f" (goal {TIMES_PEFT}, {verdict(faster >= TIMES_PEFT)})"
        rows.append(
            (
                f"merge, `{base}`",
                f"{cost.seconds:.2f}",
                f"{times:.2f} (goal {goal}, {verdict(times <= goal)})",
                against,
                f"{_mib(cost)} (goal {MEMORY >> 20} MiB, {verdict(cost.anonymous < MEMORY)})",
            )
        )
    parts = [
        f"{measured.shape.name}: {measured.bytes / 1e9:.2f} GB in {DTYPE}, LoRA r = {models.RANK} "
        "on all linear layers.",
        "",
        table(HEAD, rows),
        "",
        "`original` is bit-identical to PEFT's merge: "
        + ("yes." if measured.same_as_peft else "NO."),
    ]
    if measured.kl is not None:
        closer = measured.kl.original / measured.kl.dequantized
        parts += [
            "",
            "Kullback-Leibler divergence from the 4-bit model with its adapter, in nats per token: "
            f"{measured.kl.original:.3g} with `original`, {measured.kl.dequantized:.3g} with "
            f"`dequantized`. The result of `dequantized` is {closer:.0f} times closer to the 4-bit "
            f"model (goal: {CLOSER:.0f} times, {verdict(closer >= CLOSER)}).",
        ]
    return "\n".join(parts) + "\n"


def _mib(cost: timed.Cost) -> str:
    return f"{cost.anonymous / 2**20:.0f} MiB"
