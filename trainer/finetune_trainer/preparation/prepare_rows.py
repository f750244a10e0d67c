"""The datasets' share of staging: fetched or found mounted, tokenized once, published.

What is evaluated on, where a dataset of its own is named for that, is read first: it is small, and
what is wrong with it is said before the large one is tokenized.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.data import (
    dataset,
    dataset_files,
    packing,
    prompt_templates,
    reference_sample,
)
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset_files import Fetched, RowSource
from finetune_trainer.data.load_tokenizer import load_tokenizer, stop_ids
from finetune_trainer.data.prompt_templates import Template
from finetune_trainer.data.token_store import HELD_OUT, TRAIN
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid
from finetune_trainer.preparation.prepare_base import BaseDownload
from finetune_trainer.preparation.prepare_estimate import CheckedEstimate
from finetune_trainer.runtime import disk
from finetune_trainer.runtime.files import fresh, write_json
from finetune_trainer.runtime.progress import Progress, log
from finetune_trainer.sources.repository import OnBytes
from finetune_trainer.volume_layout import Layout

"""Fact of the manifest: where the evaluation's own rows are from, and what was counted of them."""
REPORT_EVERY = 10_000


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the rows come from; ``evaluation`` is None where they are held out of the others."""

    dataset: RowSource
    evaluation: RowSource | None

    @property
    def all(self) -> list[RowSource]:
        """Those that there are, in the order in which they are read."""
        return [self.dataset] if self.evaluation is None else [self.evaluation, self.dataset]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(source.size for source in self.all)


@dataclass(frozen=True, kw_only=True)
class TokenizedRows:
    """Rows that are ready to be published, with the digests of the files that they are from."""

    rows: dataset.Prepared
    template: Template
    source_digest: str
    evaluation_digest: str | None


def pin(job: JobConfig) -> Sources:
    """Look the datasets up before the base is fetched: what is missing fails in seconds."""
    own = job.evaluation_dataset
    return Sources(
        dataset=dataset_files.pin("dataset", job.dataset),
        evaluation=None if own is None else dataset_files.pin("evaluation.dataset", own),
    )


def tokenize(
    job: JobConfig, layout: Layout, sources: Sources, base: BaseDownload, progress: Progress
) -> TokenizedRows:
    """Read, validate and tokenize the rows; nothing is published yet."""
    fetched: dict[Kind, Fetched] = {}
    before = 0
    progress.fetching(sum(source.remaining(layout) for source in sources.all), sources.size)
    for source in sources.all:
        on_bytes = _reporting(progress, before, sources.size)
        fetched[source.kind] = dataset_files.fetch(source, layout, on_bytes=on_bytes)
        before += source.size
    tokenizer = load_tokenizer(base.folder)
    template = prompt_templates.choose(
        job.dataset, tokenizer, source=base.name, today=datetime.now(UTC).date()
    )
    renderer = Renderer(
        tokenizer,
        template=template.text,
        train_on=job.training.train_on or ("responses" if template.kind else "all"),
        stops=stop_ids(tokenizer, base.folder),
    )
    vocabulary = _vocabulary(base)

    def read(kind: Kind) -> RowTokenizer:
        row_tokenizer = RowTokenizer(job, renderer, template=template.kind, kind=kind)
        for row in fetched[kind].rows():
            if row_tokenizer.full:
                break
            row_tokenizer.add(row)
            if row_tokenizer.seen % REPORT_EVERY == 0:
                log(f"{row_tokenizer.seen} rows tokenized")
        row_tokenizer.check(vocabulary=vocabulary)
        return row_tokenizer

    evaluation = None
    if sources.evaluation is not None:
        with _named("evaluation.dataset"):
            evaluation = read("evaluation.dataset")
    prepared = dataset.prepare(job, read("dataset"), evaluation)
    for source in sources.all:
        shutil.rmtree(source.folder(layout), ignore_errors=True)
    counts, plan = prepared.counts, prepared.plan
    log(
        f"dataset: {counts.rows} rows to train on, {counts.validation_rows} "
        f"{'held out' if evaluation is None else 'of evaluation.dataset to evaluate on'}, "
        f"{counts.dropped_rows} dropped; {counts.train_tokens} tokens, {counts.trained_tokens} "
        f"of them learned; {plan.steps} steps{', packed' if plan.packed else ''}"
    )
    return TokenizedRows(
        rows=prepared,
        template=template,
        source_digest=fetched["dataset"].digest,
        evaluation_digest=None if evaluation is None else fetched["evaluation.dataset"].digest,
    )


def _reporting(progress: Progress, before: int, size: int) -> OnBytes:
    """Return what reports the bytes of one source, ``before`` them those of others."""
    return lambda count: progress.transferred(before + count, size)


@contextmanager
def _named(kind: Kind) -> Iterator[None]:
    """Say whose rows are refused: files of the two datasets may have the same names."""
    try:
        yield
    except DatasetInvalid as error:
        raise DatasetInvalid(f"{kind}: {error}") from error


def publish(
    job: JobConfig,
    layout: Layout,
    sources: Sources,
    base: BaseDownload,
    tokenized: TokenizedRows,
    checked: CheckedEstimate,
) -> manifest.Manifest:
    """Publish the tokenized rows."""
    rows, template = tokenized.rows, tokenized.template
    disk.require(layout.work, rows.bytes, "the tokenized dataset")
    scratch = fresh(layout.scratch("dataset"))
    rows.train.save(scratch / TRAIN)
    if rows.held_out.count:
        rows.held_out.save(scratch / HELD_OUT)
    write_json(scratch / reference_sample.FILE, rows.sample)
    if template.shipped and template.text is not None:
        (scratch / published.CHAT_TEMPLATE).write_text(template.text, encoding="utf-8")
    counts, plan = rows.counts, rows.plan
    return manifest.publish(
        scratch,
        layout.dataset,
        kind=published.DATASET,
        key=job.revision,
        facts={
            "source": job.dataset.source,
            "commit": sources.dataset.repository.commit,
            "sourceDigest": tokenized.source_digest,
            "baseCommit": base.commit,
            "template": template.kind,
            "templateDate": template.frozen,
            "packed": plan.packed,
            "sequences": plan.sequences,
            "plannedSteps": plan.steps,
            "rows": counts.rows,
            "validationRows": counts.validation_rows,
            "droppedRows": counts.dropped_rows,
            "truncatedRows": counts.truncated_rows,
            "duplicateRows": counts.duplicate_rows,
            "trainTokens": counts.train_tokens,
            "trainedTokens": counts.trained_tokens,
            "medianLength": counts.median_length,
            "p95Length": counts.p95_length,
            "longestRow": counts.longest,
            published.EVALUATION_FACT: _evaluation(sources.evaluation, tokenized),
            published.ESTIMATE_FACT: checked.facts,
            "warnings": [*_warnings(job, base, tokenized), *checked.warnings],
        },
    )


def _evaluation(source: RowSource | None, tokenized: TokenizedRows) -> dict[str, Any] | None:
    """Return what the manifest says of the evaluation's own rows."""
    if source is None or tokenized.rows.evaluation is None:
        return None
    return {
        "source": source.spec.source,
        "commit": source.repository.commit,
        "sourceDigest": tokenized.evaluation_digest,
        **tokenized.rows.evaluation.model_dump(),
    }


def _vocabulary(base: BaseDownload) -> int:
    """Rows of the base's embedding, as its configuration says."""
    text = base.config.get("text_config") or base.config
    return int(text.get("vocab_size") or base.config.get("vocab_size") or 2**31)


def _warnings(job: JobConfig, base: BaseDownload, tokenized: TokenizedRows) -> list[str]:
    counts, steps = tokenized.rows.counts, tokenized.rows.plan.steps
    longest = tokenized.rows.longest
    warnings = []
    if steps < packing.FEW_STEPS:
        warnings.append(
            f"only {steps} optimizer steps are planned, which seldom teaches anything: raise "
            "training.epochs, lower training.effectiveBatchSize, or add rows"
        )
    if counts.dropped_rows:
        warnings.append(
            f"{counts.dropped_rows} rows longer than training.sequenceLength were dropped"
        )
    own = tokenized.rows.evaluation
    if own is not None and own.dropped_rows:
        warnings.append(
            f"{own.dropped_rows} rows of evaluation.dataset longer than training.sequenceLength "
            "were dropped"
        )
    if own is not None and own.trained_rows:
        warnings.append(
            f"{own.trained_rows} of {own.rows} rows of evaluation.dataset are trained on too, so "
            "that the held-out loss flatters the model: remove them from one of the two datasets"
        )
    context = base.config.get("max_position_embeddings")
    if isinstance(context, int) and min(longest, job.training.sequence_length) > context:
        warnings.append(
            f"rows are up to {longest} tokens long, the base was made for {context}: lower "
            "training.sequenceLength"
        )
    if counts.duplicate_rows and job.dataset.duplicates == "keep":
        warnings.append(
            f"{counts.duplicate_rows} rows repeat others word for word: set dataset.duplicates to "
            "drop unless that is meant"
        )
    if tokenized.template.frozen:
        warnings.append(
            "the chat template puts the current date into every prompt: it says "
            f"{tokenized.template.frozen}, the day of staging, in training and in serving"
        )
    return warnings
