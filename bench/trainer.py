"""The trainer compared with plain scripts of the libraries, and packing compared with padding.

Everything runs on the CPU: a random model of a real shape, real rows, both backends. Our trainer
and the plain script take turns after each step, with equal settings, on the same tokens in the same
order, and are compared step by step, so that neither background load nor a long row affects only
one of them. Both train the adapter in float32; a plain script with the libraries' default, 16 bits,
is listed, too. Each process is killed after its last step.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.table import table, verdict
from bench.training import runs, workload
from bench.training.pairs import SAVE_STEPS, Packing, Pair
from bench.training.runs import Run
from bench.training.workload import Prepared
from finetune_trainer.training.loop.monitor import SAVE_AT_LEAST_EVERY

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS = 48
LENGTH = 256
OVERHEAD = 0.02
PACKED_LENGTH, PACKED_MICRO = 512, 4
"""For packing and padding alike: both may use the same GPU memory."""
EPOCHS = 2
"""Epochs of packing and padding. The second one counts: it trains each row exactly once."""
SHORT, LONG = 100, 1000
"""Steps of the trainings for which the share of checkpoints is reported."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    backends = ("trl", "unsloth")
    command.add_argument("--backends", nargs="+", choices=backends, default=backends)
    command.add_argument("--shape", choices=tuple(workload.SHAPES), default="smollm2-135m")
    command.add_argument(
        "--rounds", type=int, default=3, help="rounds of our trainer and the plain script"
    )
    command.add_argument("--steps", type=int, default=11, help="steps of each training")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its tables."""
    # Training processes import the same packages.
    packages = (str(REPOSITORY / name) for name in ("", "crds", "trainer"))
    os.environ["PYTHONPATH"] = os.pathsep.join(packages)
    # Do not use a GPU: python bench/gpu measures those.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        folder = Path(name)
        workload.write_model(folder / "model", options.shape)
        workload.write_rows(folder / "rows", ROWS)
        pairs, rounded = {}, {}
        for backend_name in options.backends:
            pairs[backend_name], rounded[backend_name] = _pairs(
                folder, backend_name, rounds=options.rounds, steps=options.steps
            )
        packings = {
            backend: (_packing(folder, backend, "always"), _packing(folder, backend, "never"))
            for backend in options.backends
        }
    return "\n\n".join(
        [
            f"Shape {options.shape}, random weights, NF4; {options.rounds} rounds; "
            f"torch {version('torch')}.",
            overhead(pairs, rounded),
            packing(packings),
            start(pairs),
            checkpoints(pairs),
        ]
    )


def _pairs(folder: Path, backend: str, *, rounds: int, steps: int) -> tuple[Pair, Pair]:
    """Return our trainer and plain scripts with an adapter in float32 and in 16 bits."""
    # Packed, so that all steps have similar lengths.
    training = {
        "maxSteps": steps,
        "packing": "always",
        "sequenceLength": LENGTH,
        "effectiveBatchSize": 2,
        "advanced": _advanced(backend, micro=1) | {"saveSteps": SAVE_STEPS},
    }
    prepared = workload.prepare(folder, f"pair-{backend}", training=training)
    exact = backend + runs.IN_FLOAT32
    trained: dict[str, list[Run]] = {"ours": [], exact: [], backend: []}
    bytes_ = 0
    for number in range(rounds):
        # Rotate the order: the first one starts with a colder page cache.
        first = number % len(trained)
        order = [*trained][first:] + [*trained][:first]
        print(f"==> {backend}, round {number + 1}: {', '.join(order)} in turns", flush=True)
        for who, run in runs.in_turns(order, prepared, steps=steps).items():
            trained[who].append(run)
        bytes_ = _checkpoint_bytes(prepared)
    prepared.remove()
    pair, rounded = (
        Pair(ours=trained["ours"], plain=trained[who], checkpoint_bytes=bytes_)
        for who in (exact, backend)
    )
    for compared in (pair, rounded):
        compared.refuse_other_work()
    return pair, rounded


def _advanced(backend: str, *, micro: int) -> dict[str, Any]:
    return {"backend": backend, "microBatchSize": micro, "overlong": "truncate"}


def _checkpoint_bytes(prepared: Prepared) -> int:
    newest = max(
        (prepared.work / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime
    )
    return sum(path.stat().st_size for path in newest.iterdir())


def _packing(folder: Path, backend: str, packing: str) -> Packing:
    print(f"==> {backend}: packing {packing}", flush=True)
    training = {
        "epochs": EPOCHS,
        "packing": packing,
        "sequenceLength": PACKED_LENGTH,
        "effectiveBatchSize": PACKED_MICRO,
        "advanced": _advanced(backend, micro=PACKED_MICRO),
    }
    prepared = workload.prepare(folder, f"packing-{backend}-{packing}", training=training)
    facts = prepared.facts
    planned = facts["plannedSteps"]
    run = runs.run("ours", prepared, kill_at=planned)
    prepared.remove()
    steps = planned // EPOCHS
    seconds = run.steps[-1] - run.steps[-1 - steps]
    return Packing(tokens_per_second=facts["trainedTokens"] / seconds, steps_per_epoch=steps)


def overhead(pairs: Mapping[str, Pair], rounded: Mapping[str, Pair]) -> str:
    """Return the seconds per step compared with the plain scripts.

    rounded: pairs with plain scripts whose adapter is in 16 bits.
    """
    rows = []
    for backend, pair in pairs.items():
        ours, plain = pair.seconds()
        _, stock = rounded[backend].seconds()
        share = pair.overhead()
        rows.append(
            (
                f"`{backend}`",
                f"{ours:.3f}",
                f"{plain:.3f}",
                f"{share:+.1%} (goal {OVERHEAD:.0%}, {verdict(share <= OVERHEAD)})",
                ", ".join(f"{of_round:+.1%}" for of_round in pair.rounds()),
                f"{stock:.3f} ({rounded[backend].overhead():+.1%})",
            )
        )
    head = ("backend", "seconds per step, trainer", "plain script", "overhead", "overhead by round")
    return table((*head, "plain script in 16 bits"), rows)


def packing(measured: Mapping[str, tuple[Packing, Packing]]) -> str:
    """Return the gain of packing. measured: packed and padded, by backend."""
    rows = [
        (
            f"`{backend}`",
            f"{packed.tokens_per_second:.0f}",
            f"{padded.tokens_per_second:.0f}",
            f"{packed.tokens_per_second / padded.tokens_per_second:.2f}",
            f"{packed.steps_per_epoch} and {padded.steps_per_epoch}",
        )
        for backend, (packed, padded) in measured.items()
    ]
    head = ("backend", "tokens/s, packed", "tokens/s, padded", "ratio", "steps per epoch")
    return table(head, rows)


def start(pairs: Mapping[str, Pair]) -> str:
    """Return the time from process start to the end of the first step."""
    rows = []
    for backend, pair in pairs.items():
        for who, trainings in (
            (f"`{backend}`", pair.ours),
            (f"plain script, `{backend}`", pair.plain),
        ):
            imports, model, step = (
                statistics.median(moments)
                for moments in zip(
                    *(
                        (run.imported, run.loaded - run.imported, run.steps[0] - run.loaded)
                        for run in trainings
                    ),
                    strict=True,
                )
            )
            whole = statistics.median(run.steps[0] for run in trainings)
            rows.append(
                (
                    who,
                    f"{whole:.1f}",
                    f"{imports:.1f}",
                    f"{imports / whole:.0%}",
                    f"{model:.1f}",
                    f"{step:.1f}",
                )
            )
    head = (
        "program (times in seconds)",
        "from start to end of first step",
        "imports",
        "share of imports",
        "base model",
        "trainer and first step",
    )
    return table(head, rows)


def checkpoints(pairs: Mapping[str, Pair]) -> str:
    """Return the duration of a checkpoint and its share of the training time."""
    rows = []
    for backend, pair in pairs.items():
        stall, (step, _) = pair.stall(), pair.seconds()
        shares = (
            stall / (stall + step * min(SAVE_AT_LEAST_EVERY, steps / 10)) for steps in (SHORT, LONG)
        )
        rows.append(
            (
                f"`{backend}`",
                f"{pair.checkpoint_bytes / 1e6:.0f} MB",
                f"{stall:.2f}",
                *(f"{share:.1%}" for share in shares),
            )
        )
    of = "share of a training of"
    return table(
        ("backend", "checkpoint", "seconds", f"{of} {SHORT} steps", f"{of} {LONG} steps"), rows
    )
