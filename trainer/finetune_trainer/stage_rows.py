"""The dataset's share of staging: fetched or found mounted, tokenised once, published."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.job import JobConfig
from finetune_trainer import disk, manifest, packing, readers, sample, templates
from finetune_trainer.dataset import HELD_OUT, TRAIN, Prepared, Tokeniser
from finetune_trainer.errors import DatasetNotFound
from finetune_trainer.layout import Layout
from finetune_trainer.progress import log
from finetune_trainer.rendering import Renderer, reads_the_clock
from finetune_trainer.sources import Hub, Repository
from finetune_trainer.stage_base import Begun
from finetune_trainer.stage_estimate import FACT, Bill
from finetune_trainer.tokenizers import load_tokenizer, stop_ids

KIND = "dataset"
MOUNTED = "/etc/finetune/dataset"
TEMPLATE = "chat_template.jinja"
REPORT_EVERY = 10_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows come from: a repository at one commit, or a mounted ConfigMap (None)."""

    hub: Hub
    repository: Repository | None
    files: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return self.repository.size_of(self.files) if self.repository else 0


@dataclass(frozen=True, kw_only=True)
class Template:
    """How rows are rendered: chat, alpaca or None, and the Jinja text (None with None).

    ``shipped``: it is not the base's own, so that the merged model needs it beside the tokenizer.
    """

    kind: str | None
    text: str | None
    shipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Rows that are ready to be published."""

    rows: Prepared
    template: Template
    source_digest: str


def pin(job: JobConfig) -> Source:
    """Look the dataset up before the base is fetched: what is missing fails in seconds."""
    hub = Hub(
        kind="dataset",
        source=job.dataset.source,
        revision=job.dataset.revision or "main",
        token=os.environ.get("DATASET_HF_TOKEN") or None,
    )
    if not job.dataset.source.startswith("hf://"):
        return Source(hub=hub, repository=None, files=())
    found = hub.pin()
    files = readers.files_of_split(found.files, job.dataset.split, source=found.name)
    log(f"dataset {found.name} is commit {found.commit[:12]}: {', '.join(files)}")
    return Source(hub=hub, repository=found, files=tuple(files))


def tokenise(job: JobConfig, layout: Layout, source: Source, base: Begun) -> Tokenised:
    """Read, validate and tokenise the rows; nothing is published yet."""
    raw = manifest.fresh(layout.scratch("rows"))
    files, digest = _fetch(job, source, raw, layout)
    tokenizer = load_tokenizer(base.folder)
    template = _template(job, base, tokenizer)
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
            "commit": source.repository.commit if source.repository else None,
            "sourceDigest": tokenised.source_digest,
            "baseCommit": base.commit,
            "template": template.kind,
            "packed": plan.packed,
            "sequences": plan.sequences,
            "plannedSteps": plan.steps,
            "rows": counts.rows,
            "validationRows": counts.validation_rows,
            "droppedRows": counts.dropped_rows,
            "truncatedRows": counts.truncated_rows,
            "trainTokens": counts.train_tokens,
            "trainedTokens": counts.trained_tokens,
            "longestRow": counts.longest,
            FACT: bill.facts,
            "warnings": [*_warnings(job, base, tokenised), *bill.warnings],
        },
    )


def _template(job: JobConfig, base: Begun, tokenizer: Any) -> Template:
    own = tokenizer.get_chat_template() if tokenizer.chat_template else None
    kind = templates.choose(
        job.dataset.prompt_template,
        format_=job.dataset.format,
        base_template=own,
        source=base.name,
    )
    if kind == "alpaca":
        first = tokenizer("").input_ids[:1]
        with_bos = first == [tokenizer.bos_token_id]
        return Template(kind=kind, text=templates.alpaca(with_bos=with_bos), shipped=True)
    if kind == "chat" and own and reads_the_clock(own):
        text = templates.frozen(own, datetime.now(UTC), source=base.name)
        return Template(kind=kind, text=text, shipped=True)
    return Template(kind=kind, text=own if kind else None)


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
    if tokenised.template.kind == "chat" and tokenised.template.shipped:
        warnings.append(
            "the base's chat template puts the current date into every prompt: it is frozen at the "
            "date of staging, for the rows and for the endpoint"
        )
    return warnings


def _fetch(
    job: JobConfig, source: Source, raw: Path, layout: Layout
) -> tuple[list[tuple[Path, str]], str]:
    """Bring the rows here (a ConfigMap is mounted already); return files, names and a digest."""
    repository = source.repository
    if repository is None:
        key = job.dataset.source.rsplit("/", 1)[-1]
        path = Path(os.environ.get("FINETUNE_DATASET_DIR", MOUNTED)) / key
        if not path.is_file():
            raise DatasetNotFound(
                f"dataset {job.dataset.source} is not mounted at {path}: check that the ConfigMap "
                f"exists and has the key {key!r}"
            )
        name = key if key.endswith(readers.SUFFIXES) else f"{key}.jsonl"
        return [(path, name)], "sha256:" + manifest.sha256_of(path)
    size = disk.human(source.size)
    what = f"dataset {repository.name} ({size} in {len(source.files)} files)"
    disk.require(layout.work, source.size, what)
    digests = source.hub.download(repository, source.files, raw)
    lines = "".join(f"{digests[name]}  {name}\n" for name in source.files)
    digest = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    return [(raw / name, name) for name in source.files], digest
