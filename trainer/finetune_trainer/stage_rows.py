"""The dataset's share of staging: fetched or found mounted, tokenised once, published."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.job import JobConfig
from finetune_api.sources import CONFIGMAP_SOURCE_PREFIX
from finetune_trainer import disk, manifest, packing, readers, sample, templates
from finetune_trainer.dataset import Prepared, Tokeniser
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.layout import Layout
from finetune_trainer.progress import Progress, log
from finetune_trainer.rendering import Renderer
from finetune_trainer.sources import Repository, Store, bytes_below, open_store
from finetune_trainer.sources.repository import digest_of
from finetune_trainer.stage_base import Begun
from finetune_trainer.stage_estimate import FACT, Bill
from finetune_trainer.templates import Template
from finetune_trainer.tokenizers import load_tokenizer, stop_ids
from finetune_trainer.tokens import HELD_OUT, TRAIN

KIND = "dataset"
TEMPLATE = "chat_template.jinja"
REPORT_EVERY = 10_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows come from: a repository at one commit, and the files of it that are read."""

    store: Store
    repository: Repository
    files: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch: what is mounted is read where it is."""
        return self.repository.size_of(name for name in self.files if not self.store.here(name))

    def folder(self, layout: Layout) -> Path:
        """Where they are brought: what arrived of this very commit is gone on with."""
        return layout.scratch(f"rows-{self.repository.commit[:12]}")

    def left(self, folder: Path) -> int:
        """Bytes that are still to be fetched into a folder."""
        return max(0, self.size - bytes_below(folder))


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Rows that are ready to be published."""

    rows: Prepared
    template: Template
    source_digest: str


def pin(job: JobConfig) -> Source:
    """Look the dataset up before the base is fetched: what is missing fails in seconds."""
    dataset = job.dataset
    store = open_store("dataset", dataset)
    found = store.pin()
    alone = len(found.files) == 1 and dataset.source.endswith("/" + next(iter(found.files)))
    if alone:
        if dataset.split != "train":
            raise InvalidSpec(
                f"dataset.source names the one file {dataset.source}, which has no split "
                f"{dataset.split!r}: remove dataset.split"
            )
        files = list(found.files)
    else:
        files = readers.files_of_split(found.files, dataset.split, source=found.name)
    log(f"dataset {found.name} is pinned to {found.commit[:12]}: {', '.join(files)}")
    return Source(store=store, repository=found, files=tuple(files))


def tokenise(
    job: JobConfig, layout: Layout, source: Source, base: Begun, progress: Progress
) -> Tokenised:
    """Read, validate and tokenise the rows; nothing is published yet."""
    raw = source.folder(layout)
    raw.mkdir(exist_ok=True)
    files, digest = _fetch(job, source, raw, layout, progress)
    tokenizer = load_tokenizer(base.folder)
    template = templates.choose(
        job.dataset, tokenizer, source=base.name, today=datetime.now(UTC).date()
    )
    renderer = Renderer(
        tokenizer,
        template=template.text,
        train_on=job.training.train_on or ("responses" if template.kind else "all"),
        stops=stop_ids(tokenizer, base.folder),
    )
    tokeniser = Tokeniser(job, renderer, template=template.kind)
    for path, name in files:
        for row in readers.read(path, name):
            if tokeniser.full:
                break
            tokeniser.add(row)
            if tokeniser.seen % REPORT_EVERY == 0:
                log(f"{tokeniser.seen} rows tokenised")
    prepared = tokeniser.finish(vocabulary=_vocabulary(base))
    shutil.rmtree(raw, ignore_errors=True)
    counts, plan = prepared.counts, prepared.plan
    log(
        f"dataset: {counts.rows} rows to train on, {counts.validation_rows} held out, "
        f"{counts.dropped_rows} dropped; {counts.train_tokens} tokens, {counts.trained_tokens} "
        f"of them learned; {plan.steps} steps{', packed' if plan.packed else ''}"
    )
    return Tokenised(rows=prepared, template=template, source_digest=digest)


def publish(
    job: JobConfig,
    layout: Layout,
    source: Source,
    base: Begun,
    tokenised: Tokenised,
    bill: Bill,
) -> manifest.Manifest:
    """Publish the tokenised rows."""
    rows, template = tokenised.rows, tokenised.template
    disk.require(layout.work, rows.bytes, "the tokenised dataset")
    scratch = manifest.fresh(layout.scratch("dataset"))
    rows.train.save(scratch / TRAIN)
    if rows.held_out.count:
        rows.held_out.save(scratch / HELD_OUT)
    manifest.write_json(scratch / sample.FILE, rows.sample)
    if template.shipped and template.text is not None:
        (scratch / TEMPLATE).write_text(template.text, encoding="utf-8")
    counts, plan = rows.counts, rows.plan
    return manifest.publish(
        scratch,
        layout.dataset,
        kind=KIND,
        key=job.revision,
        facts={
            "source": job.dataset.source,
            "commit": source.repository.commit,
            "sourceDigest": tokenised.source_digest,
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
            FACT: bill.facts,
            "warnings": [*_warnings(job, base, tokenised), *bill.warnings],
        },
    )


def _vocabulary(base: Begun) -> int:
    """Rows of the base's embedding, as its configuration says."""
    text = base.config.get("text_config") or base.config
    return int(text.get("vocab_size") or base.config.get("vocab_size") or 2**31)


def _warnings(job: JobConfig, base: Begun, tokenised: Tokenised) -> list[str]:
    counts, steps = tokenised.rows.counts, tokenised.rows.plan.steps
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
    context = base.config.get("max_position_embeddings")
    if isinstance(context, int) and min(counts.longest, job.training.sequence_length) > context:
        warnings.append(
            f"rows are up to {counts.longest} tokens long, the base was made for {context}: lower "
            "training.sequenceLength"
        )
    if counts.duplicate_rows and job.dataset.duplicates == "keep":
        warnings.append(
            f"{counts.duplicate_rows} rows repeat others word for word: set dataset.duplicates to "
            "drop unless that is meant"
        )
    if tokenised.template.frozen:
        warnings.append(
            "the chat template puts the current date into every prompt: it says "
            f"{tokenised.template.frozen}, the day of staging, in training and in serving"
        )
    return warnings


def _fetch(
    job: JobConfig, source: Source, raw: Path, layout: Layout, progress: Progress
) -> tuple[list[tuple[Path, str]], str]:
    """Bring the rows here, where they are not mounted; return files, names and a digest."""
    repository, here = source.repository, source.store.here
    remote = [name for name in source.files if not here(name)]
    what = f"dataset {repository.name} ({disk.human(source.size)} in {len(remote)} files)"
    if remote:
        disk.require(layout.work, source.left(raw), what)
    digests = source.store.download(
        repository,
        remote,
        raw,
        on_bytes=lambda count: progress.transferred(count, source.size),
    )
    files = [(here(name) or raw / name, name) for name in source.files]
    digests |= {name: manifest.sha256_of(path) for path, name in files if name not in digests}
    digest = "sha256:" + digest_of(f"{digests[name]}  {name}" for name in source.files)
    if job.dataset.source.startswith(CONFIGMAP_SOURCE_PREFIX):
        # The key of a ConfigMap may be named anyhow.
        files = [
            (path, name if name.endswith(readers.SUFFIXES) else f"{name}.jsonl")
            for path, name in files
        ]
    return files, digest
