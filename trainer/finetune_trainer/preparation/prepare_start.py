"""Prepares the adapter that the training continues from: pins, checks and downloads it.

It must fit the recipe: the same base, modules, rank and scaling. An adapter that a FineTuneJob has
published names the commit of its base; any other adapter names only its repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.contracts.job_config import JobConfig, ParentJob
from finetune_api.safety.redaction import one_line
from finetune_api.v1alpha1.training.start_from import START_FROM
from finetune_trainer.checkpointing import adapter_files, manifest, published
from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import base_files, special_layers, tensor_names, text_model
from finetune_trainer.preparation import start_fit
from finetune_trainer.preparation.prepare_base import BaseDownload
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.runtime.log import log
from finetune_trainer.sources import open_store
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import fresh, read_json
from finetune_trainer.volume_layout import Layout

FILES = (adapter_files.CONFIG, adapter_files.WEIGHTS)
LARGEST_MANIFEST = 4 << 20
"""Bytes; a larger file of this name is not one of this project."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The adapter to continue from. ``fact`` describes it in the manifests of later folders."""

    fact: dict[str, Any]
    warnings: tuple[str, ...]


def prepare(
    job: JobConfig,
    layout: Layout,
    base: BaseDownload,
    signatures: Signatures,
    *,
    untrusted: bool,
) -> Start | None:
    """Publish the adapter as ``start/``; None if the training begins with a new one.

    base: of the job. signatures: that the administrator requires. untrusted: whether the volume may
    hold what nothing vouches for. Raise InvalidSpec if the adapter does not fit.
    """
    start = job.training.start_from
    if start is None or start.source is None:
        return None
    adapter = None
    if not untrusted and not signatures.cover(START_FROM, start.source):
        adapter = manifest.valid(layout.start, kind=published.START, key=job.digest)
    if adapter is None:
        adapter = _download(job, layout, signatures)
    config = read_json(layout.start / adapter_files.CONFIG)
    start_fit.check_recipe(job.training.lora, config, source=start.source)
    start_fit.check_tensors(
        job.training.lora,
        read_header(layout.start, [adapter_files.WEIGHTS]),
        source=start.source,
    )
    warnings = start_fit.check_base(
        job.model.source, base.commit, config, adapter.facts, source=start.source
    )
    for warning in warnings:
        log(warning)
    fact = {
        "source": start.source,
        "commit": adapter.facts["commit"],
        "digest": adapter.digest,
        "manifest": adapter.sha256,
        **_lineage(job.parent),
    }
    return Start(fact=fact, warnings=warnings)


def check_layers(job: JobConfig, layout: Layout, base: manifest.Manifest) -> None:
    """Raise InvalidSpec unless the adapter has tensors for exactly the layers of the recipe.

    base: the published base, whose weights are complete.
    """
    start = job.training.start_from
    if start is None or start.source is None:
        return
    shards = [file.name for file in base.files if file.name.endswith(".safetensors")]
    header = read_header(layout.base, shards)
    model: Header = tensor_names.find(layout.base, header.tensors).header(header)
    start_fit.check_modules(
        job.training.lora,
        adapter_files.changed_tensors(layout.start),
        model,
        special_layers.adapted(text_model.build(layout.base)),
        source=start.source,
    )


def _download(job: JobConfig, layout: Layout, signatures: Signatures) -> manifest.Manifest:
    start = job.training.start_from
    assert start is not None
    assert start.source is not None
    store = open_store(START_FROM, start)
    repository = store.pin()
    signatures.pinned(START_FROM, start.source, store, repository)
    log(f"adapter {store.name} is pinned to {repository.commit[:12]}")
    missing = [name for name in FILES if name not in repository.files]
    if missing:
        what = "a model, not an adapter" if base_files.CONFIG in repository.files else "no adapter"
        raise InvalidSpec(
            f"{start.source} has no file {missing[0]}, so it is {what}: set {START_FROM}.source "
            f"to a folder with {' and '.join(FILES)}"
        )
    listed = repository.files.get(manifest.FILE)
    names = list(FILES)
    if listed is not None and listed.size <= LARGEST_MANIFEST:
        names.append(manifest.FILE)
    disk.require(layout.work, repository.size_of(names), f"adapter {store.name}")
    scratch = fresh(layout.scratch("start"))
    digests = store.download(repository, names, scratch, on_bytes=lambda count: None)
    signatures.check(START_FROM, digests)
    _require_published(job.parent, digests, source=start.source)
    # The published folder gets a manifest of its own.
    origin = _origin(scratch / manifest.FILE, digests, source=start.source)
    return manifest.publish(
        scratch,
        layout.start,
        kind=published.START,
        key=job.digest,
        facts={"source": start.source, "commit": repository.commit, **origin},
    )


def _lineage(parent: ParentJob | None) -> dict[str, Any]:
    """Return what a fact says about the job that has published the adapter."""
    if parent is None:
        return {}
    return {"job": parent.job, "revision": parent.revision, "published": parent.digest}


def _require_published(
    parent: ParentJob | None, digests: Mapping[str, str], *, source: str
) -> None:
    """Raise InvalidSpec unless a place still holds the adapter that another job has published.

    digests: of the downloaded files. A folder in a bucket is not protected by its name.
    """
    if parent is None or parent.manifest is None:
        return
    if digests.get(manifest.FILE) != parent.manifest:
        raise InvalidSpec(
            f"{source} no longer holds the adapter that revision {parent.revision} of FineTuneJob "
            f"{parent.job} has published: its {manifest.FILE} does not have the SHA-256 "
            f"{parent.manifest}. Publish the adapter again, or set {START_FROM} to another one"
        )


def _origin(file: Path, digests: Mapping[str, str], *, source: str) -> dict[str, Any]:
    """Return what the manifest of a published adapter says about its base; nothing without one.

    digests: of the downloaded files. Raise InvalidSpec if the manifest describes others.
    """
    if not file.is_file():
        return {}
    try:
        adapter = manifest.parse(file.read_text(encoding="utf-8"))
        base, commit = adapter.facts["source"], adapter.facts["baseCommit"]
        if adapter.kind != published.ADAPTER or not isinstance(base, str) or not commit.isalnum():
            return {}
        described = {entry.name: entry.sha256 for entry in adapter.files}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    for name in FILES:
        if described.get(name) != digests[name]:
            raise InvalidSpec(
                f"the adapter {source} in {START_FROM} has the file {manifest.FILE}, but it "
                f"describes another {name}: publish the adapter again, or remove {manifest.FILE} "
                "if the adapter was changed on purpose"
            )
    return {"baseSource": one_line(base, 512), "baseCommit": one_line(commit, 64)}
