"""Validates and tokenizes the rows of one dataset, one by one.

Errors of rows are collected, so that one message names several of them.
"""

from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.reference_sample import Sample
from finetune_trainer.data.rows.conversations import BrokenRow
from finetune_trainer.data.rows.readers import Row
from finetune_trainer.data.rows.schema import example_of
from finetune_trainer.data.split import ContentHashes, content_hash
from finetune_trainer.data.token_store import Integers, TokenBuffer
from finetune_trainer.errors import DatasetInvalid
from finetune_trainer.runtime.log import log

OVERLONG_SHARE = 0.05
REPORT_EVERY = 10_000
SHOWN = 3
"""Number of problems that a message names, and of rows for each; further rows are counted."""
EVALUATION_SEED = 0
"""Seed of the sample of an evaluation dataset: the same rows for every recipe."""


class RowTokenizer:
    """Collects the rows of one dataset; ``add`` validates and tokenizes a row.

    ``pieces`` are the sequences, ``owner`` is the row of each sequence, ``contents`` the hashes of
    the rows. ``rows_read`` counts all rows, those that were dropped included.
    """

    def __init__(
        self, job: JobConfig, renderer: Renderer, *, template: str | None, kind: Kind = "dataset"
    ) -> None:
        """``template`` is chat, alpaca, own, or None for format text; ``kind`` is the dataset.

        The formats of the job's datasets are known; none is auto.
        """
        self.renderer = renderer
        self.pieces = TokenBuffer()
        self.contents = ContentHashes(validation_fraction=job.dataset.validation_fraction)
        self.truncated = 0
        self.longest = 0
        self.rows_read = 0
        self._job = job
        self._draw = EVALUATION_SEED if kind == "evaluation.dataset" else job.training.seed
        self._several = kind not in ("dataset", "evaluation.dataset")
        self._origin = array("b")
        self.sample = Sample()
        self._recipe = job.training
        self._template = template
        self._owner = array("q")
        self._broken: dict[str, list[str]] = {}
        """The first rows of each problem, by its text."""
        self._broken_rows: Counter[str] = Counter()
        self._left_out: list[str] = []
        self._datasets = 0
        self.begin(kind)
        self._datasets = 0

    def begin(self, kind: Kind) -> None:
        """Continue with the rows of a dataset; the datasets of ``datasets`` form one set."""
        self._kind, self._rows = kind, self._job.rows_of(kind)
        self._read_before = self.rows_read
        self._datasets += 1

    @property
    def full(self) -> bool:
        """Whether ``maxSamples`` rows were read."""
        limit = self._rows.max_samples
        return limit is not None and self.rows_read - self._read_before >= limit

    @property
    def owner(self) -> Integers:
        """The row of each sequence."""
        return np.asarray(self._owner, dtype=np.int64)

    @property
    def origin(self) -> Integers:
        """For each row the position of its dataset."""
        return np.asarray(self._origin, dtype=np.int64)

    @property
    def dropped(self) -> int:
        """Number of rows that were dropped for their length."""
        return self.rows_read - len(self.contents)

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add rows until ``maxSamples`` are read.

        Raise DatasetInvalid if a file cannot be read on; the invalid rows before are named, too.
        """
        try:
            for row in rows:
                if self.full:
                    break
                self.add(row)
                if self.rows_read % REPORT_EVERY == 0:
                    log(f"{self.rows_read} rows tokenized")
        except DatasetInvalid as error:
            problems = [*self._problems(), self._place(str(error))]
            raise DatasetInvalid("; ".join(problems)) from error

    def add(self, row: Row) -> None:
        """Add a row. An invalid row is recorded and reported by ``check``."""
        self.rows_read += 1
        place = self._place(row.place)
        if row.problem:
            self._add_broken(place, row.problem)
            return
        try:
            example = example_of(row.values, self._rows, template=self._template, kind=self._kind)
            if self._broken_rows:
                return
            encoded = self.renderer.example(example)
        except BrokenRow as problem:
            self._add_broken(place, str(problem))
            return
        seed = self._recipe.seed
        content = content_hash(example, seed)
        if kept := self._take(encoded, content, place):
            drawn = content if seed == self._draw else content_hash(example, self._draw)
            self.sample.offer(example, kept, drawn, dataset=self._kind if self._several else None)

    def _place(self, place: str) -> str:
        """Return a position with its dataset, if several datasets may have files of its name."""
        return f"{self._kind}: {place}" if self._several else place

    def _add_broken(self, place: str, problem: str) -> None:
        if problem not in self._broken and len(self._broken) == SHOWN:
            problem = ""
        self._broken_rows[problem] += 1
        places = self._broken.setdefault(problem, []) if problem else []
        if len(places) < SHOWN:
            places.append(place)

    def _take(self, encoded: list[Encoded], content: int, place: str) -> list[Encoded]:
        limit = self._recipe.sequence_length
        self.longest = max(self.longest, *(len(sequence) for sequence in encoded))
        too_long = any(len(sequence) > limit for sequence in encoded)
        if too_long and self._recipe.advanced.overlong != "truncate":
            self._leave_out(place)
            return []
        kept = [
            Encoded(input_ids=sequence.input_ids[:limit], labels=sequence.labels[:limit])
            for sequence in encoded
        ]
        # The first label of a sequence is never predicted.
        kept = [
            sequence for sequence in kept if any(label != IGNORED for label in sequence.labels[1:])
        ]
        if not kept:
            self._leave_out(place)
            return []
        self.truncated += too_long
        row = len(self.contents)
        self.contents.append(content)
        self._origin.append(max(0, self._datasets - 1))
        for sequence in kept:
            self.pieces.append(sequence)
            self._owner.append(row)
        return kept

    def _leave_out(self, place: str) -> None:
        if len(self._left_out) < SHOWN:
            self._left_out.append(place)

    def check(self, *, vocabulary: int) -> None:
        """Raise DatasetInvalid if rows are invalid, too long, or do not match the base.

        ``vocabulary`` is the number of rows of the base's embedding.
        """
        self._refuse_broken()
        self._refuse_overlong()
        if (largest := self.pieces.largest) >= vocabulary:
            raise DatasetInvalid(
                "the tokenizer of the base model does not match the weights: the tokenizer "
                f"produces the token id {largest}, but the embedding of the base model has only "
                f"{vocabulary} rows. Choose another revision of the base model"
            )

    def _refuse_broken(self) -> None:
        if problems := self._problems():
            raise DatasetInvalid("; ".join(problems))

    def _problems(self) -> list[str]:
        """Return the problems of invalid rows, each with the first rows that have it."""
        problems = [
            f"{_named(places, self._broken_rows[problem])}: {problem}"
            for problem, places in self._broken.items()
        ]
        if more := self._broken_rows[""]:
            problems.append(f"and {more} more invalid rows")
        return problems

    def _refuse_overlong(self) -> None:
        if not self.rows_read:
            raise DatasetInvalid(
                f"the dataset has no rows: check {self._kind}.source and {self._kind}.split"
            )
        policy, limit = self._recipe.advanced.overlong, self._recipe.sequence_length
        dropped = self.dropped
        allowed = 0.0 if policy == "refuse" else OVERLONG_SHARE * self.rows_read
        if dropped <= allowed:
            return
        problem = "have their whole answer beyond" if policy == "truncate" else "are longer than"
        ways = {
            "drop": ", or set training.advanced.overlong to truncate",
            "refuse": ", or set training.advanced.overlong to drop or truncate",
        }
        raise DatasetInvalid(
            f"{dropped} of {self.rows_read} rows ({100 * dropped / self.rows_read:.1f} %"
            f"{'; at most 5 % are allowed' if allowed else ''}) {problem} training.sequenceLength "
            f"{limit}, for example {', '.join(self._left_out)}. The longest row has {self.longest} "
            f"tokens: raise training.sequenceLength{ways.get(policy, '')}"
        )


def _named(places: list[str], count: int) -> str:
    """Return the first rows with a problem, and how many more rows have it."""
    more = count - len(places)
    return ", ".join(places) + (f" and {more} more rows" if more else "")
