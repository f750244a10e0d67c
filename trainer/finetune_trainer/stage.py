"""``stage``: everything that can be done, and refused, before a GPU is asked for.

Base and dataset are pinned to a commit, checked, fetched and published as ``base/`` and
``dataset/``. Reads tokens from MODEL_HF_TOKEN and DATASET_HF_TOKEN; only this command uses the
network.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.job import JobConfig
from finetune_api.result import Result
from finetune_trainer import base, disk, manifest, packing, readers, templates
from finetune_trainer.dataset import HELD_OUT, TRAIN, Tokeniser, tokenise
from finetune_trainer.errors import DatasetNotFound, InvalidSpec, full_volume_named
from finetune_trainer.layout import Layout
from finetune_trainer.progress import Progress, log
from finetune_trainer.rendering import Renderer, reads_the_clock
from finetune_trainer.sources import Hub, Repository
from finetune_trainer.tensors import Header, read_header

BASE, DATASET = "base", "dataset"
CONFIGMAP_FOLDER = "/etc/finetune/dataset"
DOWNLOAD_SHARE = 0.7
"""Share of the stage's progress that the download is; the rest is tokenising."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The data files to read, in order, and what identifies their content."""

    files: tuple[tuple[Path, str], ...]
    digest: str


def run(job: JobConfig, layout: Layout, progress: Progress) -> Result:
    """Stage a job, or find that it is staged already."""
    found = staged(layout, job, hashes=True)
    if found is not None:
        return _result(*found, message="staged already")
    layout.work.mkdir(parents=True, exist_ok=True)
    with full_volume_named(layout.work, "staging"):
        data = _pin_dataset(job)
        base_manifest = _stage_base(job, layout, progress, data)
        dataset_manifest = _stage_dataset(job, layout, progress, data, base_manifest)
    for leftover in layout.work.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    progress.ratio(1.0)
    return _result(base_manifest, dataset_manifest, message="base and dataset are staged")


def staged(
    layout: Layout, job: JobConfig, *, hashes: bool
) -> tuple[manifest.Manifest, manifest.Manifest] | None:
    """Return the manifests of base and dataset if both are there and whole."""
    found_base = manifest.valid(layout.base, kind=BASE, key=job.revision, hashes=hashes)
    found_data = manifest.valid(layout.dataset, kind=DATASET, key=job.revision)
    if found_base is None or found_data is None:
        return None
    return found_base, found_data


def _pin_dataset(job: JobConfig) -> Repository | None:
    """Look the dataset up before the base is fetched: a missing one fails in seconds."""
    if not job.dataset.source.startswith("hf://"):
        return None
    return _hub(job, "dataset").pin()


def _stage_base(
    job: JobConfig, layout: Layout, progress: Progress, data: Repository | None
) -> manifest.Manifest:
    hub = _hub(job, "model")
    # A base that an earlier attempt published stays at its commit, even if the branch moved on.
    found = manifest.valid(layout.base, kind=BASE, key=job.revision)
    if found is not None:
        log(f"base {hub.name} is here already, at {found.facts['baseCommit'][:12]}")
        return found
    repository = hub.pin()
    log(f"model {repository.name} is commit {repository.commit[:12]}")
    base.check_listing(repository)
    if data is not None:
        readers.files_of_split(data.files, job.dataset.split, source=data.name)
    scratch = _scratch(layout, f"base-{repository.commit[:12]}")
    small = base.side_files(repository.files)
    small += [base.INDEX] if base.INDEX in repository.files else []
    disk.require(layout.work, repository.size_of(small), f"model {repository.name}")
    digests = hub.download(repository, small, scratch)
    config = base.check_config(scratch, source=repository.name)
    shards = base.weight_files(scratch, repository.files)
    size = repository.size_of(shards)
    there = sum((scratch / name).stat().st_size for name in shards if (scratch / name).is_file())
    disk.require(
        layout.work,
        size - there + (data.size_of(_data_files(job, data)) if data else 0),
        f"model {repository.name} ({disk.human(size)} in {len(shards)} safetensors files)",
    )
    progress.start_from(0.0)
    digests |= hub.download(
        repository,
        shards,
        scratch,
        on_bytes=lambda count: progress.ratio(DOWNLOAD_SHARE * min(1.0, count / max(1, size))),
    )
    shutil.rmtree(scratch / ".cache", ignore_errors=True)
    header = read_header(scratch, shards)
    check_targets(job, header, source=repository.name)
    log(f"base {repository.name}: {disk.human(size)}, {config['model_type']}")
    return manifest.publish(
        scratch,
        layout.base,
        kind=BASE,
        key=job.revision,
        facts={"source": job.model.source, "baseCommit": repository.commit},
        known=digests,
    )


def check_targets(job: JobConfig, header: Header, *, source: str) -> None:
    """Refuse target modules that the base does not have, with the ones that it has."""
    linear = {
        name.removesuffix(".weight")
        for name, tensor in header.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }
    wanted = job.training.lora.target_modules
    if wanted == ["all-linear"]:
        return
    missing = [
        name
        for name in wanted
        if not any(each == name or each.endswith(f".{name}") for each in linear)
    ]
    if missing:
        repeated = sorted(
            {
                each.rsplit(".", 1)[-1]
                for each in linear
                if any(p.isdigit() for p in each.split("."))
            }
        )
        raise InvalidSpec(
            f"training.lora.targetModules names {', '.join(missing)}, which model {source} does "
            f"not have; its layers have {', '.join(repeated)}: name some of these, or all-linear"
        )


def _stage_dataset(
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    data: Repository | None,
    base_manifest: manifest.Manifest,
) -> manifest.Manifest:
    from finetune_trainer.tokenizers import load_tokenizer, stop_ids

    raw = manifest.fresh(_scratch(layout, "rows"))
    rows = _fetch(job, data, raw, layout)
    tokenizer = load_tokenizer(layout.base)
    own = tokenizer.get_chat_template() if tokenizer.chat_template else None
    kind = templates.choose(
        job.dataset.prompt_template,
        format_=job.dataset.format,
        base_template=own,
        source=base_manifest.facts["source"].removeprefix("hf://"),
    )
    with_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    template = templates.alpaca(with_bos=with_bos) if kind == "alpaca" else own
    train_on = job.training.train_on or ("all" if kind is None else "responses")
    renderer = Renderer(
        tokenizer,
        template=template,
        train_on=train_on,
        stops=stop_ids(tokenizer, layout.base),
    )
    tokeniser = Tokeniser(job, renderer, template=kind)
    progress.ratio(DOWNLOAD_SHARE)
    tokenise(
        (row for path, name in rows.files for row in readers.read(path, name)),
        tokeniser,
        on_row=lambda count: log(f"{count} rows tokenised") if count % 10000 == 0 else None,
    )
    shards = [entry.name for entry in base_manifest.files if entry.name.endswith(".safetensors")]
    header = read_header(layout.base, shards)
    train, held_out, counts, plan = tokeniser.finish(vocabulary=header.embedding_rows())
    shutil.rmtree(raw, ignore_errors=True)

    arrays = sum(each.nbytes for part in (train, held_out) for each in vars(part).values())
    disk.require(layout.work, arrays, "the tokenised dataset")
    scratch = manifest.fresh(_scratch(layout, "dataset"))
    train.save(scratch / TRAIN)
    if held_out.count:
        held_out.save(scratch / HELD_OUT)
    if kind == "alpaca" and template is not None:
        (scratch / "chat_template.jinja").write_text(template, encoding="utf-8")
    warnings = _warnings(job, layout, plan.steps, counts.longest, template if kind else None)
    if counts.dropped_rows:
        warnings.append(
            f"{counts.dropped_rows} rows longer than training.sequenceLength were dropped"
        )
    facts: dict[str, Any] = {
        "source": job.dataset.source,
        "commit": data.commit if data else None,
        "sourceDigest": rows.digest,
        "baseCommit": base_manifest.facts["baseCommit"],
        "template": kind,
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
        "warnings": warnings,
    }
    log(
        f"dataset: {counts.rows} rows to train on, {counts.validation_rows} held out, "
        f"{counts.dropped_rows} dropped; {counts.train_tokens} tokens, {counts.trained_tokens} "
        f"of them learned; {plan.steps} steps{', packed' if plan.packed else ''}"
    )
    return manifest.publish(scratch, layout.dataset, kind=DATASET, key=job.revision, facts=facts)


def _warnings(
    job: JobConfig, layout: Layout, steps: int, longest: int, template: str | None
) -> list[str]:
    warnings = []
    if steps < packing.FEW_STEPS:
        warnings.append(
            f"only {steps} optimizer steps are planned, which seldom teaches anything: raise "
            "training.epochs, lower training.effectiveBatchSize, or add rows"
        )
    context = base.read_json(layout.base / base.CONFIG).get("max_position_embeddings")
    if isinstance(context, int) and min(longest, job.training.sequence_length) > context:
        warnings.append(
            f"rows are up to {longest} tokens long, the base was made for {context}: lower "
            "training.sequenceLength"
        )
    if template and reads_the_clock(template):
        warnings.append(
            "the base's chat template puts the current date into every prompt: rows were rendered "
            "with the date of staging"
        )
    return warnings


def _fetch(job: JobConfig, data: Repository | None, raw: Path, layout: Layout) -> Rows:
    """Bring the rows here; a ConfigMap is mounted already."""
    if data is None:
        key = job.dataset.source.rsplit("/", 1)[-1]
        path = Path(os.environ.get("FINETUNE_DATASET_DIR", CONFIGMAP_FOLDER)) / key
        if not path.is_file():
            raise DatasetNotFound(
                f"dataset {job.dataset.source} is not mounted at {path}: check that the ConfigMap "
                f"exists and has the key {key!r}"
            )
        name = key if key.endswith(readers.SUFFIXES) else f"{key}.jsonl"
        return Rows(files=((path, name),), digest="sha256:" + manifest.sha256_of(path))
    names = _data_files(job, data)
    disk.require(
        layout.work,
        data.size_of(names),
        f"dataset {data.name} ({disk.human(data.size_of(names))} in {len(names)} files)",
    )
    log(f"dataset {data.name} is commit {data.commit[:12]}: {', '.join(names)}")
    digests = _hub(job, "dataset").download(data, names, raw)
    lines = "".join(f"{digests[name]}  {name}\n" for name in names)
    return Rows(
        files=tuple((raw / name, name) for name in names),
        digest="sha256:" + hashlib.sha256(lines.encode()).hexdigest(),
    )


def _data_files(job: JobConfig, data: Repository) -> list[str]:
    return readers.files_of_split(data.files, job.dataset.split, source=data.name)


def _hub(job: JobConfig, kind: str) -> Hub:
    if kind == "model":
        return Hub(
            kind="model",
            source=job.model.source,
            revision=job.model.revision or "main",
            token=os.environ.get("MODEL_HF_TOKEN") or None,
        )
    return Hub(
        kind="dataset",
        source=job.dataset.source,
        revision=job.dataset.revision or "main",
        token=os.environ.get("DATASET_HF_TOKEN") or None,
    )


def _scratch(layout: Layout, name: str) -> Path:
    """A scratch folder that a broken-off attempt may have filled already."""
    scratch = layout.scratch(name)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def _result(base_manifest: manifest.Manifest, data: manifest.Manifest, *, message: str) -> Result:
    facts = data.facts
    return Result(
        stage="stage",
        outcome="completed",
        reason="Completed",
        message=message,
        max_steps=facts["plannedSteps"],
        artifacts={
            "baseCommit": base_manifest.facts["baseCommit"],
            "datasetDigest": data.digest,
            **{
                name: facts[name]
                for name in (
                    "rows",
                    "validationRows",
                    "droppedRows",
                    "trainTokens",
                    "plannedSteps",
                )
            },
        },
        warnings=facts["warnings"],
    )
