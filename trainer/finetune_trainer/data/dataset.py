"""Builds the training set from tokenized rows: split, packed and counted."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.data.statistics import Data, DatasetRows, EvaluationData
from finetune_api.v1alpha1.training.training import Training
from finetune_trainer.data import packing
from finetune_trainer.data.chat_rendering import IGNORED
from finetune_trainer.data.split import Flags
from finetune_trainer.data.token_store import Integers, Tokens
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Number of sequences and optimizer steps of the training."""

    packed: bool
    sequences: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Training set, held-out rows (possibly none), and their counts."""

    train: Tokens
    held_out: Tokens
    counts: Data
    """What the status says about the rows."""
    plan: StepPlan
    sample: list[dict[str, Any]]
    """Rows for the verification of builds, from ``reference_sample.Sample.choose``."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row of both datasets, dropped and truncated rows included."""
        own = self.counts.evaluation_dataset
        return max(self.counts.longest_row or 0, (own.longest_row or 0) if own else 0)

    @property
    def bytes(self) -> int:
        """Bytes of both sets on disk, without headers."""
        return self.train.bytes + self.held_out.bytes


def prepare(job: JobConfig, rows: RowTokenizer, evaluation: RowTokenizer | None) -> Prepared:
    """Return the training set and the rows to evaluate on. Raises DatasetInvalid.

    ``rows`` are those of ``dataset``; ``evaluation`` those of ``evaluation.dataset``, None without
    one. Both have passed ``RowTokenizer.check``.
    """
    kept = len(rows.contents)
    first = rows.contents.first_of_equals()
    wanted = first if job.dataset.duplicates == "drop" else np.ones(kept, dtype=np.bool_)
    largest = rows.contents.largest_held_out(wanted)
    held_out = rows.contents.up_to(largest) & wanted
    passes = _passes(job, rows, wanted & ~held_out)
    training = np.repeat(np.arange(len(rows.owner)), passes[rows.owner])
    if not training.size:
        raise DatasetInvalid(
            f"no training rows remain ({rows.rows_read} read, {rows.dropped} dropped, "
            f"{int(held_out.sum())} held out): add rows, or lower dataset.validationFraction"
        )
    lengths = rows.pieces.lengths[training]
    groups, plan = _plan(job.training, training, lengths)
    train = rows.pieces.gather(groups)
    source, own = rows, None
    evaluated = np.flatnonzero(held_out[rows.owner])
    validation_rows = int(held_out.sum())
    if evaluation is not None:
        source, own = evaluation, _counted(evaluation, rows)
        evaluated = np.arange(len(evaluation.owner))
        validation_rows, largest = len(evaluation.contents), None
    if job.training.advanced.early_stopping_patience and not validation_rows:
        raise DatasetInvalid(
            "training.advanced.earlyStoppingPatience needs held-out rows, but none of the "
            f"{kept} rows is held out: set or raise dataset.validationFraction, or set "
            "evaluation.dataset"
        )
    counts = Data(
        rows=int(passes.sum()),
        validation_rows=validation_rows,
        dropped_rows=rows.dropped,
        truncated_rows=rows.truncated,
        duplicate_rows=kept - int(first.sum()),
        train_tokens=int(train.input_ids.size),
        trained_tokens=int((train.labels != IGNORED).sum()),
        median_length=_quantile(lengths, 50),
        p95_length=_quantile(lengths, 95),
        longest_row=rows.longest,
        planned_steps=plan.steps,
        evaluation_dataset=own,
        datasets=_rows_of_each(job, rows, passes, held_out),
    )
    return Prepared(
        train=train,
        held_out=source.pieces.gather([[int(row)] for row in evaluated]),
        counts=counts,
        plan=plan,
        sample=source.sample.choose(source.renderer, held_out=validation_rows > 0, largest=largest),
    )


def _passes(job: JobConfig, rows: RowTokenizer, training: Flags) -> Integers:
    """Return for each row how often an epoch contains it: the weight of its dataset."""
    passes = training.astype(np.int64)
    for position, dataset in enumerate(job.rows_of_training.values()):
        own = training & (rows.origin == position)
        whole = math.floor(dataset.weight)
        rest = rows.contents.drawn(own, dataset.weight - whole, job.training.seed)
        passes[own] = whole
        passes[rest] += 1
    return passes


def _rows_of_each(
    job: JobConfig, rows: RowTokenizer, passes: Integers, held_out: Flags
) -> list[DatasetRows] | None:
    """Return the numbers of rows of each dataset with a name; None if there is none."""
    counts = [
        DatasetRows(
            name=dataset.name,
            rows=int(passes[rows.origin == position].sum()),
            validation_rows=int(held_out[rows.origin == position].sum()),
        )
        for position, dataset in enumerate(job.rows_of_training.values())
        if dataset.name
    ]
    return counts or None


def _counted(evaluation: RowTokenizer, training: RowTokenizer) -> EvaluationData:
    """Return the counts of an evaluation dataset, in which duplicates are kept."""
    lengths, contents = evaluation.pieces.lengths, evaluation.contents
    return EvaluationData(
        rows=len(contents),
        dropped_rows=evaluation.dropped,
        truncated_rows=evaluation.truncated,
        duplicate_rows=len(contents) - int(contents.first_of_equals().sum()),
        trained_rows=contents.also_in(training.contents),
        tokens=int(lengths.sum()),
        evaluated_tokens=evaluation.pieces.learned,
        median_length=_quantile(lengths, 50),
        p95_length=_quantile(lengths, 95),
        longest_row=evaluation.longest,
    )


def _quantile(lengths: Integers, percent: int) -> int:
    return int(np.percentile(lengths, percent, method="higher"))


def _plan(
    recipe: Training, training: Integers, lengths: Integers
) -> tuple[list[list[int]], StepPlan]:
    def steps(sequences: int) -> int:
        return packing.steps_of(
            sequences,
            batch=recipe.effective_batch_size,
            epochs=recipe.epochs,
            max_steps=recipe.max_steps,
        )

    single = [[int(row)] for row in training]
    if recipe.packing != "never":
        groups = packing.pack(lengths.tolist(), recipe.sequence_length)
        enough = steps(len(groups)) >= packing.STEPS_WORTH_PACKING
        if recipe.packing == "always" or enough:
            packed = [[int(training[position]) for position in group] for group in groups]
            plan = StepPlan(packed=True, sequences=len(packed), steps=steps(len(packed)))
            return packed, plan
    return single, StepPlan(packed=False, sequences=len(single), steps=steps(len(single)))
