"""Prepares the base model: pins and checks it, and downloads its weights last.

``start`` downloads the small files, which suffice to tokenize rows. ``finish`` downloads the
weights and publishes the base. All other checks run between the two, before gigabytes are
downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.models import (
    architecture,
    base_files,
    special_layers,
    tensor_names,
    text_model,
)
from finetune_trainer.preparation import base_source, earlier_volume
from finetune_trainer.preparation.signed_sources import Signatures
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.sources import Repository, Store, bytes_below, open_store
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import read_json
from finetune_trainer.volume_layout import Layout


@dataclass(frozen=True, kw_only=True)
class BaseDownload:
    """A base whose small files are in ``folder``; ``published`` is set if the base is complete.

    config: config.json. text: the same for the text model, as in ``text_model.described``.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    text: dict[str, Any]
    commit: str
    published: manifest.Manifest | None = None
    store: Store | None = None
    repository: Repository | None = None
    shards: tuple[str, ...] = ()
    digests: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        if self.repository is None:
            return self.published.size() if self.published else 0
        return self.repository.size_of(self.shards)

    @property
    def remaining(self) -> int:
        """Upper bound of the bytes of the weights that are not downloaded yet."""
        return 0 if self.published else max(0, self.size - bytes_below(self.folder))


def start(
    job: JobConfig,
    layout: Layout,
    *,
    signatures: Signatures,
    rows: Sequence[Path],
    also_needed: int,
    untrusted: bool = False,
) -> BaseDownload:
    """Pin the base, download its small files, and check them and the free disk space.

    Args:
        job: The job configuration.
        layout: The volume.
        signatures: That the administrator requires; those of the base are read, and compared with
            its small files, or with all files of a base that is on the volume.
        rows: Folders with files of the datasets; they are kept.
        also_needed: Bytes of the datasets that are still to be downloaded.
        untrusted: Whether an earlier FineTuneJob used the volume, so no manifest on it is read.

    Raises:
        TrainerError: The base cannot be trained, or the volume is too small.
    """
    source, name = job.model.source, job.model.source.removeprefix("hf://")
    earlier = (
        None if untrusted else manifest.valid(layout.base, kind=published.BASE, key=job.digest)
    )
    store: Store | None = None
    if earlier is None or signatures.cover("model", source):
        store = open_store("model", job.model)
        repository = store.pin()
        signatures.pinned("model", source, store, repository)
        if earlier is not None and earlier.facts["baseCommit"] != repository.commit:
            # The signature is about other files than those on the volume.
            earlier = None
    if earlier is not None:
        signatures.check("model", {file.name: file.sha256 for file in earlier.files})
        manifest.sweep(layout.work, but=rows)
        # A published base stays at its commit, even if its branch has moved since.
        commit = earlier.facts["baseCommit"]
        log(f"base {name} is already on the volume, at commit {commit[:12]}")
        config = read_json(layout.base / base_files.CONFIG)
        return BaseDownload(
            folder=layout.base,
            name=name,
            config=config,
            text=text_model.described(layout.base),
            commit=commit,
            published=earlier,
            digests={},
        )
    assert store is not None
    log(f"model {name} is pinned to commit {repository.commit[:12]}")
    base_files.check_listing(repository)
    # A partial download of the same commit is resumed; one of another commit is deleted.
    scratch = layout.scratch(f"base-{repository.commit[:12]}")
    if untrusted:
        earlier_volume.take_over(layout, repository, scratch, rows=rows)
    manifest.sweep(layout.work, but=[scratch, *rows])
    small, digests = base_source.download_small(name, store, repository, scratch)
    signatures.check("model", digests)
    config = base_files.check_config(scratch, source=name)
    shards = base_files.weight_files(scratch, repository.files)
    if job.training.lora.modules_to_save:
        architecture.require_untied(scratch, job.training.lora.modules_to_save, source=name)
    text = text_model.described(scratch)
    special_layers.check_targets(text["model_type"], job.training.lora.target_modules, source=name)
    size = repository.size_of(shards)
    downloaded = bytes_below(scratch) - repository.size_of(small)
    disk.require(
        layout.work,
        size - max(0, downloaded) + also_needed,
        f"model {name} ({disk.human(size)} in {len(shards)} safetensors files)",
    )
    return BaseDownload(
        folder=scratch,
        name=name,
        config=config,
        text=text,
        commit=repository.commit,
        store=store,
        repository=repository,
        shards=tuple(shards),
        digests=digests,
    )


def finish(
    download: BaseDownload,
    job: JobConfig,
    layout: Layout,
    progress: Progress,
    signatures: Signatures,
) -> manifest.Manifest:
    """Download the weights, check them against the recipe, and publish the base."""
    if download.published is not None:
        return download.published
    assert download.store is not None
    assert download.repository is not None
    digests = download.digests | base_source.download_weights(
        download.store,
        download.repository,
        download.shards,
        download.folder,
        progress,
        left=download.remaining,
    )
    signatures.check("model", digests)
    header = read_header(download.folder, download.shards)
    names = tensor_names.find(download.folder, header.tensors)
    model = names.header(header)
    check_targets(job, model, source=download.name)
    check_saved(job, model, source=download.name)
    architecture.check(download.folder, header, names, source=download.name)
    log(f"base {download.name}: {disk.human(download.size)}, {download.text['model_type']}")
    return manifest.publish(
        download.folder,
        layout.base,
        kind=published.BASE,
        key=job.digest,
        facts=_facts(job, download),
        digests=digests,
    )


def _facts(job: JobConfig, download: BaseDownload) -> dict[str, Any]:
    facts = {"source": job.model.source, "baseCommit": download.commit}
    if download.repository is not None and download.repository.license is not None:
        facts[published.LICENSE_FACT] = download.repository.license
    return facts


def check_saved(job: JobConfig, header: Header, *, source: str) -> None:
    """Raise InvalidSpec for modulesToSave that the base's files lack: the merge would fail.

    header: with the names of the model.
    """
    missing = [
        name
        for name in job.training.lora.modules_to_save or ()
        if not any(name in tensor.split(".") for tensor in header.tensors)
    ]
    if missing:
        raise InvalidSpec(
            f"the files of model {source} contain no tensor of the modules {', '.join(missing)} "
            "in training.lora.modulesToSave: remove these modules from the list"
        )


def check_targets(job: JobConfig, header: Header, *, source: str) -> None:
    """Raise InvalidSpec for target modules that the base lacks; the message lists its modules.

    header: with the names of the model.
    """
    targets = job.training.lora.target_modules
    if targets == ["all-linear"]:
        return
    linear = {
        tuple(name.removesuffix(".weight").split("."))
        for name, tensor in header.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }
    missing = [
        name
        for name in targets
        if not any(layer[-name.count(".") - 1 :] == tuple(name.split(".")) for layer in linear)
    ]
    if missing:
        repeated = {layer[-1] for layer in linear if any(part.isdigit() for part in layer)}
        raise InvalidSpec(
            f"training.lora.targetModules contains {', '.join(missing)}, which model {source} does "
            f"not have. The layers of the model have the modules {', '.join(sorted(repeated))}: "
            "set targetModules to some of these modules, or to all-linear"
        )
