"""From rows to the tokenised training set: validated, masked, split and packed once."""

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_api.job import JobConfig
from finetune_trainer import packing
from finetune_trainer.contents import Contents, content_hash
from finetune_trainer.errors import DatasetInvalid
from finetune_trainer.readers import Row
from finetune_trainer.rendering import IGNORED, Encoded, Renderer
from finetune_trainer.rows import BrokenRow, example_of
from finetune_trainer.sample import Sample
from finetune_trainer.tokens import Collected, Integers, Tokens

OVERLONG_SHARE = 0.05
SHOWN = 3
"""Broken rows that a message names before it only counts."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What was counted while tokenising."""

    rows: int
    validation_rows: int
    dropped_rows: int
    truncated_rows: int
    duplicate_rows: int
    train_tokens: int
    trained_tokens: int
    median_length: int
    p95_length: int
    longest: int
    """Tokens of the longest row, one that was dropped or cut included."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many sequences and optimizer steps the training will be."""

    packed: bool
    sequences: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Training set, held-out rows (maybe none), and what there is to say about them."""

    train: Tokens
    held_out: Tokens
    counts: Statistics
    plan: Plan
    sample: list[dict[str, Any]]
    """Rows that builds are later held against, as ``sample.Sample.choose`` returns them."""

    @property
    def bytes(self) -> int:
        """Bytes that both sets take on disk, headers aside."""
        return self.train.bytes + self.held_out.bytes


class Tokeniser:
    """Collects rows; ``add`` validates and tokenises one, ``finish`` splits and packs them all."""

    def __init__(self, job: JobConfig, renderer: Renderer, *, template: str | None) -> None:
        """``template`` is chat, alpaca, own, or None for format text."""
        self._job = job
        self._renderer = renderer
        self._template = template
        self._pieces = Collected()
        self._contents = Contents(validation_fraction=job.dataset.validation_fraction)
        self._owner = array("q")
        self._broken: list[str] = []
        self._broken_count = 0
        self._truncated = 0
        self._left_out: list[str] = []
        self._longest = 0
        self._sample = Sample(seed=job.training.seed)
        self.seen = 0

    @property
    def full(self) -> bool:
        """Whether ``maxSamples`` rows were taken."""
        limit = self._job.dataset.max_samples
        return limit is not None and self.seen >= limit

    def add(self, row: Row) -> None:
        """Take a row; a broken one is remembered and named in ``finish``."""
        self.seen += 1
        try:
            example = example_of(row.values, self._job.dataset, template=self._template)
            if self._broken_count:
                return
            encoded = (
                self._renderer.text(example.text)
                if example.text is not None
                else self._renderer.conversation(example.messages or [])
            )
        except BrokenRow as problem:
            self._broken_count += 1
            if len(self._broken) < SHOWN:
                self._broken.append(f"{row.place}: {problem}")
            return
        content = content_hash(example, self._job.training.seed)
        if kept := self._take(encoded, content, row.place):
            held_out = self._contents.may_be_held_out(content)
            self._sample.offer(example, kept, content, held_out=held_out)

    def _take(self, encoded: list[Encoded], content: int, place: str) -> list[Encoded]:
        limit = self._job.training.sequence_length
        self._longest = max(self._longest, *(len(each) for each in encoded))
        too_long = any(len(each) > limit for each in encoded)
        if too_long and self._job.training.advanced.overlong != "truncate":
            self._leave_out(place)
            return []
        kept = [
            Encoded(input_ids=each.input_ids[:limit], labels=each.labels[:limit])
            for each in encoded
        ]
        # The first label of a sequence is never predicted.
        kept = [each for each in kept if any(label != IGNORED for label in each.labels[1:])]
        if not kept:
            self._leave_out(place)
            return []
        self._truncated += too_long
        row = len(self._contents)
        self._contents.append(content)
        for each in kept:
            self._pieces.append(each)
            self._owner.append(row)
        return kept

    def _leave_out(self, place: str) -> None:
        if len(self._left_out) < SHOWN:
            self._left_out.append(place)

    def finish(self, *, vocabulary: int) -> Prepared:
        """Return training set, held-out rows, counts and plan, or say what is wrong with the rows.

        ``vocabulary`` is the number of rows of the base's embedding.
        """
        self._refuse_broken()
        kept = len(self._contents)
        dropped = self.seen - kept
        self._refuse_overlong(dropped)
        if (largest := self._pieces.largest) >= vocabulary:
            raise DatasetInvalid(
                f"the tokenizer gives token {largest}, but the base's embedding has "
                f"{vocabulary} rows: tokenizer and weights of the model do not belong together"
            )
        first = self._contents.first_of_equals()
        wanted = first if self._job.dataset.duplicates == "drop" else np.ones(kept, dtype=np.bool_)
        held_out = self._contents.held_out(int(wanted.sum())) & wanted
        owner = np.asarray(self._owner, dtype=np.int64)
        evaluation = np.flatnonzero(held_out[owner])
        training = np.flatnonzero((wanted & ~held_out)[owner])
        if not training.size:
            raise DatasetInvalid(
                f"no row is left to train on ({self.seen} read, {dropped} dropped, "
                f"{int(held_out.sum())} held out): add rows, or lower dataset.validationFraction"
            )
        if self._job.training.advanced.early_stopping_patience and not evaluation.size:
            raise DatasetInvalid(
                "training.advanced.earlyStoppingPatience needs held-out rows, and of these "
                f"{kept} rows none is held out: set or raise dataset.validationFraction"
            )
        lengths = self._pieces.lengths[training]
        groups, plan = self._plan(training, lengths)
        train = self._pieces.gather(groups)
        evaluated = self._pieces.gather([[int(each)] for each in evaluation])
        counts = Statistics(
            rows=int((wanted & ~held_out).sum()),
            validation_rows=int(held_out.sum()),
            dropped_rows=dropped,
            truncated_rows=self._truncated,
            duplicate_rows=kept - int(first.sum()),
            train_tokens=int(train.input_ids.size),
            trained_tokens=int((train.labels != IGNORED).sum()),
            median_length=int(np.percentile(lengths, 50, method="higher")),
            p95_length=int(np.percentile(lengths, 95, method="higher")),
            longest=self._longest,
        )
        sample = self._sample.choose(self._renderer, held_out=bool(held_out.any()))
        return Prepared(train=train, held_out=evaluated, counts=counts, plan=plan, sample=sample)

    def _refuse_broken(self) -> None:
        if not self._broken_count:
            return
        more = self._broken_count - len(self._broken)
        raise DatasetInvalid(
            "; ".join(self._broken) + (f"; and {more} more broken rows" if more else "")
        )

    def _refuse_overlong(self, dropped: int) -> None:
        if not self.seen:
            raise DatasetInvalid("the dataset has no rows: check dataset.source and dataset.split")
        training = self._job.training
        policy, limit = training.advanced.overlong, training.sequence_length
        allowed = 0.0 if policy == "refuse" else OVERLONG_SHARE * self.seen
        if dropped <= allowed:
            return
        what = "have their answers beyond" if policy == "truncate" else "are longer than"
        ways = {
            "drop": ", or set advanced.overlong to truncate",
            "refuse": ", or set advanced.overlong to drop or truncate",
        }
        raise DatasetInvalid(
            f"{dropped} of {self.seen} rows ({100 * dropped / self.seen:.1f} %"
            f"{', at most 5 % are dropped' if allowed else ''}) {what} training.sequenceLength "
            f"{limit} (the longest has {self._longest} tokens), such as "
            f"{', '.join(self._left_out)}: raise sequenceLength{ways.get(policy, '')}"
        )

    def _plan(self, training: Integers, lengths: Integers) -> tuple[list[list[int]], Plan]:
        recipe = self._job.training

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
                packed = [[int(training[each]) for each in group] for group in groups]
                plan = Plan(packed=True, sequences=len(packed), steps=steps(len(packed)))
                return packed, plan
        return single, Plan(packed=False, sequences=len(single), steps=steps(len(single)))
