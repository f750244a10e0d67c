"""Prepares the datasets: pins and fetches them, tokenizes the rows once, publishes the result.

An evaluation dataset is read first: it is small, so its errors are reported before the large
dataset is tokenized.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.data.statistics import FormatRecord
from finetune_api.v1alpha1.resources import Backend
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.attention.kernels import Support
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.compatibility import backend_choice
from finetune_trainer.data import (
    dataset,
    dataset_files,
    packing,
    prompt_templates,
    reference_sample,
    template_cost,
)
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset_files import Fetched, RowSource
from finetune_trainer.data.load_tokenizer import load_tokenizer, stop_ids
from finetune_trainer.data.prompt_templates import Template
from finetune_trainer.data.token_store import HELD_OUT, TRAIN
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid
from finetune_trainer.preparation import dataset_formats
from finetune_trainer.preparation.prepare_base import BaseDownload
from finetune_trainer.preparation.prepare_estimate import CheckedEstimate
from finetune_trainer.preparation.prepare_start import Start
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.sources.repository import OnBytes
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import fresh, write_json
from finetune_trainer.volume_layout import Layout


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The pinned datasets; ``evaluation`` is None if no evaluation dataset is set."""

    training: tuple[RowSource, ...]
    evaluation: RowSource | None

    @property
    def all(self) -> list[RowSource]:
        """All datasets, in the order in which they are read."""
        return [*([] if self.evaluation is None else [self.evaluation]), *self.training]

    @property
    def size(self) -> int:
        """Bytes to fetch of all datasets."""
        return sum(source.size for source in self.all)


@dataclass(frozen=True, kw_only=True)
class TokenizedRows:
    """Tokenized rows, with the digests of the files that they were read from."""

    rows: dataset.Prepared
    template: Template
    formats: list[FormatRecord]
    renderer: Renderer
    source_digests: dict[Kind, str]

    def check_template(self) -> None:
        """Raise InvalidSpec for a chat template that a shared endpoint does not render."""
        if self.template.text is not None:
            template_cost.check(self.renderer, self.template.text, self.rows.sample)


def pin(job: JobConfig, layout: Layout, signatures: Signatures) -> Sources:
    """Pin the datasets. Runs before the base is downloaded, so that a missing one fails early."""
    own = job.evaluation_dataset
    sources = Sources(
        training=tuple(dataset_files.pin(*pair, layout) for pair in job.rows_of_training.items()),
        evaluation=None if own is None else dataset_files.pin("evaluation.dataset", own, layout),
    )
    for source in sources.all:
        signatures.pinned(source.kind, source.spec.source, source.store, source.repository)
    return sources


def tokenize(
    job: JobConfig,
    layout: Layout,
    sources: Sources,
    base: BaseDownload,
    progress: Progress,
    signatures: Signatures,
) -> TokenizedRows:
    """Fetch, validate and tokenize all rows. Raises DatasetInvalid; publishes nothing."""
    fetched: dict[Kind, Fetched] = {}
    before = 0
    progress.fetching(sum(source.remaining(layout) for source in sources.all), sources.size)
    for source in sources.all:
        on_bytes = _on_bytes(progress, before, sources.size)
        copies = signatures.cover(source.kind, source.spec.source)
        download = dataset_files.fetch(source, layout, on_bytes=on_bytes, copies=copies)
        signatures.check(source.kind, {**source.described, **download.digests})
        fetched[source.kind] = download
        before += source.size
    job, formats = dataset_formats.determine(job, fetched)
    tokenizer = load_tokenizer(base.folder)
    template = prompt_templates.choose(
        job.dataset,
        tokenizer,
        source=base.name,
        today=datetime.now(UTC).date(),
        formats={rows.format for rows in job.rows_of_training.values()},
    )
    renderer = Renderer(
        tokenizer,
        template=template.text,
        train_on=job.training.train_on or ("responses" if template.kind else "all"),
        stops=stop_ids(tokenizer, base.folder),
    )
    vocabulary = _vocabulary(base)

    def read(*kinds: Kind) -> RowTokenizer:
        row_tokenizer = RowTokenizer(job, renderer, template=template.kind, kind=kinds[0])
        for kind in kinds:
            row_tokenizer.begin(kind)
            row_tokenizer.add_all(fetched[kind].rows())
        row_tokenizer.check(vocabulary=vocabulary)
        return row_tokenizer

    evaluation = None
    if sources.evaluation is not None:
        with _errors_prefixed("evaluation.dataset"):
            evaluation = read("evaluation.dataset")
    prepared = dataset.prepare(job, read(*job.rows_of_training), evaluation)
    for source in sources.all:
        shutil.rmtree(source.folder(layout), ignore_errors=True)
    counts, plan = prepared.counts, prepared.plan
    log(
        f"dataset: {counts.rows} training rows, {counts.validation_rows} "
        f"{'held-out rows' if evaluation is None else 'rows of evaluation.dataset'}, "
        f"{counts.dropped_rows} dropped rows; {counts.train_tokens} tokens, of which "
        f"{counts.trained_tokens} contribute to the loss; {plan.steps} steps"
        f"{' with packed rows' if plan.packed else ''}"
    )
    return TokenizedRows(
        rows=prepared,
        template=template,
        formats=formats,
        renderer=renderer,
        source_digests={kind: files.digest for kind, files in fetched.items()},
    )


def _on_bytes(progress: Progress, before: int, size: int) -> OnBytes:
    """Return a callback for the bytes of one source; ``before`` are those of earlier sources."""
    return lambda count: progress.transferred(before + count, size)


@contextmanager
def _errors_prefixed(kind: Kind) -> Iterator[None]:
    """Name the dataset in its errors: both datasets may have files of the same name."""
    try:
        yield
    except DatasetInvalid as error:
        raise DatasetInvalid(f"{kind}: {error}") from error


def publish(
    job: JobConfig,
    layout: Layout,
    sources: Sources,
    base: BaseDownload,
    backend: Backend,
    attention: Support,
    tokenized: TokenizedRows,
    checked: CheckedEstimate,
    start: Start | None,
    warnings: Sequence[str],
) -> manifest.Manifest:
    """Publish the tokenized rows, and the backend and the kernels that train on them.

    warnings: about the base, and about the adapter to continue from.
    """
    rows, template = tokenized.rows, tokenized.template
    disk.require(layout.work, rows.bytes, "the tokenized dataset")
    scratch = fresh(layout.scratch("dataset"))
    rows.train.save(scratch / TRAIN)
    if rows.held_out.count:
        rows.held_out.save(scratch / HELD_OUT)
    write_json(scratch / reference_sample.FILE, rows.sample)
    backend_choice.save(scratch, backend)
    attention_choice.save(scratch, attention)
    if template.shipped and template.text is not None:
        (scratch / published.CHAT_TEMPLATE).write_text(template.text, encoding="utf-8")
    data = rows.counts.model_copy(
        update={
            "formats": tokenized.formats,
            "sources": [source.record for source in sources.all],
            "tool_call_parser": tokenized.renderer.parser,
        }
    )
    return manifest.publish(
        scratch,
        layout.dataset,
        kind=published.DATASET,
        key=job.digest,
        facts={
            **data.model_dump(exclude_none=True),
            published.ORIGINS_FACT: {
                source.kind: {
                    "source": source.spec.source,
                    "commit": source.repository.commit,
                    "digest": tokenized.source_digests[source.kind],
                }
                for source in sources.all
            },
            "baseCommit": base.commit,
            "template": template.kind,
            "templateDate": template.frozen,
            published.TEMPLATE_FACT: template.digest,
            "packed": rows.plan.packed,
            "sequences": rows.plan.sequences,
            published.ESTIMATE_FACT: checked.facts,
            **({} if start is None else {published.START_FACT: start.fact}),
            "warnings": [
                *warnings,
                *_warnings(job, base, tokenized),
                *checked.warnings,
            ],
        },
    )


def _vocabulary(base: BaseDownload) -> int:
    """Return the vocabulary size that config.json of the base states."""
    return int(base.text.get("vocab_size") or 2**31)


def _warnings(job: JobConfig, base: BaseDownload, tokenized: TokenizedRows) -> list[str]:
    counts, steps = tokenized.rows.counts, tokenized.rows.plan.steps
    longest = tokenized.rows.longest
    warnings = []
    if steps < packing.FEW_STEPS:
        warnings.append(
            f"only {steps} optimizer steps are planned, usually too few for the model to learn: "
            "raise training.epochs, lower training.effectiveBatchSize, or add rows"
        )
    if counts.dropped_rows:
        warnings.append(
            f"{counts.dropped_rows} rows longer than training.sequenceLength were dropped: to "
            "train on these rows, raise training.sequenceLength"
        )
    own = counts.evaluation_dataset
    if own is not None and own.dropped_rows:
        warnings.append(
            f"the evaluation does not use {own.dropped_rows} rows of evaluation.dataset: they are "
            "longer than training.sequenceLength"
        )
    if own is not None and own.trained_rows:
        warnings.append(
            f"{own.trained_rows} of {own.rows} rows of evaluation.dataset are also training rows, "
            "so the held-out loss is too low: remove these rows from one of the two datasets"
        )
    context = base.text.get("max_position_embeddings")
    if isinstance(context, int) and min(longest, job.training.sequence_length) > context:
        warnings.append(
            f"rows are up to {longest} tokens long, but the context length of the base model is "
            f"{context} tokens: lower training.sequenceLength"
        )
    if counts.duplicate_rows and job.dataset.duplicates == "keep":
        warnings.append(
            f"{counts.duplicate_rows} rows are exact duplicates of other rows: if this is not "
            "intended, set dataset.duplicates to drop"
        )
    if tokenized.template.frozen:
        warnings.append(
            "the chat template writes a date into every prompt. In training and in serving, this "
            f"date is {tokenized.template.frozen}, the day of preparation"
        )
    return warnings
