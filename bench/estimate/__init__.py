"""The memory formula compared with traced training steps.

It needs no GPU: the steps are traced on tensors without data. The compared bytes are the tensors:
without CUDA's context, fragmentation, and the optimizer, which is not part of a traced step.
"""

import argparse
from dataclasses import dataclass

from bench.estimate import cases
from bench.estimate.cases import Row
from bench.estimate.trace import Case, trace
from bench.table import table
from finetune_trainer.attention import kernels
from finetune_trainer.devices.cards import AMPERE
from finetune_trainer.estimate import backends, memory, shape
from finetune_trainer.estimate.backends import FORMULAS
from finetune_trainer.estimate.memory import GIB, Step

GOAL = 0.05
NOT_TRACED = "not traced: Unsloth's kernels need a GPU"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A traced step and its estimate, in bytes."""

    row: Row
    kernel: str
    traced: int
    estimated: int

    @property
    def error(self) -> float:
        """Relative error of the estimate."""
        return self.estimated / self.traced - 1


def measure(_: argparse.Namespace) -> str:
    """Trace all steps and return a table."""
    comparisons = []
    for row in cases.rows():
        comparisons.append(compare(row))
        print(f"==> {_cells(comparisons[-1])}", flush=True)
    within = sum(abs(comparison.error) <= GOAL for comparison in comparisons)
    head = ("model", "layers", "rows", "attention", "checkpointing", "traced", "formula", "error")
    unsloth = ("any model", "all", "any", "Unsloth's", "any", NOT_TRACED, "-", "-")
    summary = (
        f"{within} of {len(comparisons)} estimates are within {GOAL:.0%} of the traced peak; the "
        f"largest error is {max((comparison.error for comparison in comparisons), key=abs):+.1%}."
    )
    return f"{table(head, [*map(_cells, comparisons), unsloth])}\n\n{summary}"


def compare(row: Row) -> Compared:
    """Trace a step and return its peak with the estimate."""
    sizes = shape.read(row.config)
    assert sizes is not None
    kernel = kernels.choose(
        row.recipe, packed=row.packed, capability=AMPERE, support=sizes.attention
    )
    step = Step(micro_batch=row.micro_batch, length=row.length, packed=row.packed, kernel=kernel)
    inside = 0 if kernel == backends.EAGER else backends.workspace(sizes, row.recipe, step)
    case = Case(config=row.config, recipe=row.recipe, step=step, workspace=inside)
    parts = memory.training(sizes, row.recipe, FORMULAS["trl"], step)
    return Compared(
        row=row,
        kernel=kernel,
        traced=trace(case).peak,
        estimated=parts.tensors - parts.optimizer,
    )


def _cells(comparison: Compared) -> tuple[str, ...]:
    row = comparison.row
    packed = "packed" if row.packed else "padded"
    model = f"{row.model}, {row.note}" if row.note else row.model
    return (
        model,
        "all" if row.layers is None else str(row.layers),
        f"{row.micro_batch} x {row.length}, {packed}",
        f"`{comparison.kernel}`",
        "no" if row.recipe.advanced.gradient_checkpointing is False else "yes",
        f"{comparison.traced / GIB:.2f} GiB",
        f"{comparison.estimated / GIB:.2f} GiB",
        f"{comparison.error:+.1%}",
    )
