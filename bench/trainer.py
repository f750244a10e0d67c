"""The trainer against plain scripts of the libraries: what its care costs, and what packing gives.

One run, on the processor: a random model of a real shape, real rows, both backends. Ours and the
plain script take turns, with the same settings on the same tokens in the same order, and are
compared step by step, so that neither a busy minute nor a long row counts for one of them alone.
Ours trains the adapter in float32, and so does the script; what the script takes as the libraries
leave it, in 16 bits, is told beside it.
Each process is killed when its last step is done: what comes after is no part of this.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.table import table
from bench.training import runs, workload
from bench.training.runs import Run
from bench.training.workload import Staged
from finetune_trainer.training.train import SAVE_AT_LEAST_EVERY

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS = 48
LENGTH = 256
SAVE_STEPS = 5
OVERHEAD = 0.02
SAME_LOSS = 0.001
"""How far the losses of a first step may be apart, as a share: more is not the same work. Later the
libraries' own roundings of the adapter tell."""
PACKED_LENGTH, PACKED_MICRO = 512, 4
"""Of packing and padding alike: either may take the same memory of a card."""
EPOCHS = 2
"""Of packing and padding; the second one counts, in which each row is trained exactly once."""
SHORT, LONG = 100, 1000
"""Steps of the runs for which the share of checkpoints is told."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Ours and a plain script's, each in several rounds, step by step on the same tokens."""

    ours: Sequence[Run]
    plain: Sequence[Run]
    checkpoint_bytes: int = 0

    def seconds(self) -> tuple[float, float]:
        """Return the seconds of a step of both, of steps that no checkpoint came before."""
        steps = [step for step in self._ours if step not in self._saved]
        return (
            statistics.mean(self._ours[step] for step in steps),
            statistics.mean(self._plain[step] for step in steps),
        )

    def stall(self) -> float:
        """Return the seconds that a checkpoint holds the training up."""
        ours, plain = self.seconds()
        return statistics.median(
            self._ours[step] - self._plain[step] * ours / plain for step in self._saved
        )

    def rounds(self) -> list[float]:
        """Return the overhead of each round on its own, as a share."""
        return [
            ours / plain - 1
            for ours, plain in (
                Pair(ours=[ours], plain=[plain]).seconds()
                for ours, plain in zip(self.ours, self.plain, strict=True)
            )
        ]

    def refuse_other_work(self) -> None:
        """Raise RuntimeError where the losses of a step show that not the same was trained."""
        both = list(zip(self.ours[0].losses, self.plain[0].losses, strict=True))
        for step, (ours, plain) in enumerate(both[: runs.WARM_UP], 1):
            if abs(ours / plain - 1) > SAME_LOSS:
                raise RuntimeError(
                    "ours and the plain script do not train the same: at step "
                    f"{step} their losses are {ours} and {plain}"
                )

    @property
    def _ours(self) -> dict[int, float]:
        return _by_step(self.ours)

    @property
    def _plain(self) -> dict[int, float]:
        return _by_step(self.plain)

    @property
    def _saved(self) -> list[int]:
        return [step for step in self._ours if (step - 1) % SAVE_STEPS == 0]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A training on rows of all lengths, packed or padded. tokens: those that the loss is of."""

    tokens_per_second: float
    steps_per_epoch: int


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what this measurement can be told."""
    backends = ("trl", "unsloth")
    command.add_argument("--backends", nargs="+", choices=backends, default=backends)
    command.add_argument("--shape", choices=tuple(workload.SHAPES), default="smollm2-135m")
    command.add_argument("--rounds", type=int, default=3, help="of ours and the plain script")
    command.add_argument("--steps", type=int, default=11, help="of each of their trainings")


def measure(options: argparse.Namespace) -> str:
    """Measure; return the tables."""
    # The processes that train find the same packages.
    packages = (str(REPOSITORY / name) for name in ("", "crds", "trainer"))
    os.environ["PYTHONPATH"] = os.pathsep.join(packages)
    # Also where there is a card: python bench/gpu is for those.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        folder = Path(name)
        workload.write_model(folder / "model", options.shape)
        workload.write_rows(folder / "rows", ROWS)
        pairs, rounded = {}, {}
        for each in options.backends:
            pairs[each], rounded[each] = _pairs(
                folder, each, rounds=options.rounds, steps=options.steps
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
    """Return ours beside the plain script, with an adapter in float32 and in 16 bits."""
    # Packed, so that all steps are about as long.
    training = {
        "maxSteps": steps,
        "packing": "always",
        "sequenceLength": LENGTH,
        "effectiveBatchSize": 2,
        "advanced": _advanced(backend, micro=1) | {"saveSteps": SAVE_STEPS},
    }
    staged = workload.stage(folder, f"pair-{backend}", training=training)
    exact = backend + runs.IN_FLOAT32
    found: dict[str, list[Run]] = {"ours": [], exact: [], backend: []}
    bytes_ = 0
    for number in range(rounds):
        # Who comes later finds a warmer machine, or a busier one.
        first = number % len(found)
        for who in [*found][first:] + [*found][:first]:
            print(f"==> {backend}, round {number + 1}: {who}", flush=True)
            run = runs.run(who, staged, kill_at=steps)
            found[who].append(run)
            if who == "ours":
                bytes_ = _checkpoint_bytes(staged)
    staged.remove()
    pair, rounded = (
        Pair(ours=found["ours"], plain=found[who], checkpoint_bytes=bytes_)
        for who in (exact, backend)
    )
    for each in (pair, rounded):
        each.refuse_other_work()
    return pair, rounded


def _advanced(backend: str, *, micro: int) -> dict[str, Any]:
    return {"backend": backend, "microBatchSize": micro, "overlong": "truncate"}


def _checkpoint_bytes(staged: Staged) -> int:
    newest = max(
        (staged.work / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime
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
    staged = workload.stage(folder, f"packing-{backend}-{packing}", training=training)
    facts = staged.facts
    planned = facts["plannedSteps"]
    run = runs.run("ours", staged, kill_at=planned)
    staged.remove()
    steps = planned // EPOCHS
    seconds = run.steps[-1] - run.steps[-1 - steps]
    return Packing(tokens_per_second=facts["trainedTokens"] / seconds, steps_per_epoch=steps)


def overhead(pairs: Mapping[str, Pair], rounded: Mapping[str, Pair]) -> str:
    """Return the seconds of a step against those of the plain scripts.

    rounded: beside those whose adapter is in 16 bits.
    """
    rows = []
    for backend, pair in pairs.items():
        ours, plain = pair.seconds()
        _, stock = rounded[backend].seconds()
        share = ours / plain - 1
        met = "met" if share <= OVERHEAD else "missed"
        rows.append(
            (
                f"`{backend}`",
                f"{ours:.3f}",
                f"{plain:.3f}",
                f"{share:+.1%} (goal {OVERHEAD:.0%}, {met})",
                ", ".join(f"{each:+.1%}" for each in pair.rounds()),
                f"{stock:.3f} ({ours / stock - 1:+.1%})",
            )
        )
    head = ("backend", "seconds a step", "of a plain script", "overhead", "by round")
    return table((*head, "of one that trains in 16 bits"), rows)


def packing(found: Mapping[str, tuple[Packing, Packing]]) -> str:
    """Return what packing gives. found: packed and padded, of each backend."""
    rows = [
        (
            f"`{backend}`",
            f"{packed.tokens_per_second:.0f}",
            f"{padded.tokens_per_second:.0f}",
            f"{packed.tokens_per_second / padded.tokens_per_second:.2f}",
            f"{packed.steps_per_epoch} and {padded.steps_per_epoch}",
        )
        for backend, (packed, padded) in found.items()
    ]
    head = ("backend", "trained tokens/s, packed", "padded", "times", "steps of an epoch")
    return table(head, rows)


def start(pairs: Mapping[str, Pair]) -> str:
    """Return the time from the process's start to the end of its first step."""
    rows = []
    for backend, pair in pairs.items():
        for who, each in ((f"`{backend}`", pair.ours), ("its plain script", pair.plain)):
            imports, model, step = (
                statistics.median(moments)
                for moments in zip(
                    *(
                        (run.imported, run.loaded - run.imported, run.steps[0] - run.loaded)
                        for run in each
                    ),
                    strict=True,
                )
            )
            whole = statistics.median(run.steps[0] for run in each)
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
    head = ("start", "first step done after", "imports", "of it", "base", "trainer, first step")
    return table(head, rows)


def checkpoints(pairs: Mapping[str, Pair]) -> str:
    """Return how long a checkpoint holds the training up, and what share of it that is."""
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
    return table(("backend", "checkpoint", "seconds", f"{of} {SHORT} steps", f"{of} {LONG}"), rows)


def _by_step(found: Sequence[Run]) -> dict[int, float]:
    """Return the seconds up to each step, the median of all rounds."""
    intervals = zip(*(run.intervals() for run in found), strict=True)
    return {step: statistics.median(each) for step, each in enumerate(intervals, runs.WARM_UP + 1)}
