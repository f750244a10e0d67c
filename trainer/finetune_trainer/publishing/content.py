"""What is published: a choice of the files of a folder on the volume, under a manifest of its own.

The ledger names the folder by the digest of its manifest, which has the digests of all files; each
file is compared with it while it is read. An adapter is published together with the tokenizer of
its base, so that it can be used without the tokenizer's repository.

Files are published only if their names are in a list. The published manifest has the format of the
volume's, for the published files, and names the folder of the volume. It has no free text.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.publish_targets import PublishTargetRequest
from finetune_api.contracts.stage_request import PublishStageRequest
from finetune_api.safety import untrusted_file
from finetune_trainer.checkpointing import adapter_files, manifest, published
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.models import base_files
from finetune_trainer.publishing import hub_card
from finetune_trainer.runtime.log import log
from finetune_trainer.volume_layout import Layout

READ = 1 << 18
"""Bytes per read: they stay in the processor cache until all digests have used them."""
CARD = "README.md"
DOCUMENTS = (CARD, "loss.png", "loss_history.json")
NAMES = {
    "adapter": (
        adapter_files.CONFIG,
        adapter_files.WEIGHTS,
        published.QUANTIZATION,
        published.CHAT_TEMPLATE,
        *DOCUMENTS,
    ),
    "merged": (
        base_files.CONFIG,
        base_files.INDEX,
        "*.safetensors",
        *base_files.TOKENIZER,
        *base_files.OTHERS,
        *DOCUMENTS,
    ),
}
"""Patterns of the names of published files. A star does not match a slash."""
FACTS = (
    "source",
    "baseCommit",
    published.START_FACT,
    "datasetDigest",
    "adapter",
    "dtype",
    "base",
    "pairs",
    published.TEXT_MODEL_FACT,
    "globalStep",
    "maxSteps",
    "adapterStep",
    "loss",
    "evalLoss",
    "gpuSeconds",
    "backend",
    "attention",
    "device",
    "quantization",
    "quantizedModules",
    "versions",
    "images",
)
"""Facts of the volume's manifest that the published manifest has, too."""
CONTENT_FACT = "publishedFrom"
"""Fact in the published manifest: SHA-256 (hex) of the manifest on the volume."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file on the volume. ``name`` is relative to the published folder."""

    path: Path
    name: str
    size: int
    sha256: str
    remedy: str = field(default="", compare=False)
    data: bytes | None = field(default=None, compare=False)
    """The content of a document that is not on the volume."""

    @classmethod
    def document(cls, name: str, data: bytes) -> "File":
        """Return a document with this content."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(path=Path(name), name=name, size=len(data), sha256=digest, data=data)

    def read(self, offset: int = 0, count: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from an offset. Raise ResumeRefused if there are fewer than expected."""
        left = self.size - offset if count is None else count
        if self.data is not None:
            yield self.data[offset : offset + left]
            return
        try:
            with untrusted_file.open_regular(self.path, follow_links=False) as file:
                file.seek(offset)
                while left and (chunk := file.read(min(READ, left))):
                    left -= len(chunk)
                    yield chunk
        except (FileNotFoundError, untrusted_file.NotAFile) as error:
            raise self.changed() from error
        if left:
            raise self.changed()

    def require(self, sha256: str) -> None:
        """Raise ResumeRefused if the digest of the bytes that were read is another one."""
        if sha256 != self.sha256:
            raise self.changed()

    def changed(self) -> ResumeRefused:
        """Return the error for a file that is not the one in the manifest."""
        return ResumeRefused(
            f"{self.path.parent.name}/{self.path.name} has changed since it was written, so it is "
            f"not published: {self.remedy}"
        )


@dataclass(frozen=True, kw_only=True)
class Content:
    """The files to publish in the order of their names, and the published manifest.json."""

    files: tuple[File, ...]
    manifest: bytes

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the published manifest."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def with_manifest(self) -> tuple[File, ...]:
        """The files, and the published manifest."""
        return (*self.files, File.document(manifest.FILE, self.manifest))

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of all files and of the manifest by path."""
        return {file.name: file.sha256 for file in self.with_manifest}

    @property
    def size(self) -> int:
        """Bytes of all files and of the manifest."""
        return sum(file.size for file in self.files) + len(self.manifest)


def read(
    job: JobConfig, layout: Layout, request: PublishStageRequest, target: PublishTargetRequest
) -> Content:
    """Return the content of a target. Its files are not read yet.

    Raise ResumeRefused if the folder on the volume is not the one in the ledger.
    """
    try:
        if target.what == "adapter":
            folder, remedy = layout.adapter, "set spec.rerun to a new value to train again"
            folder_manifest = manifest.verify(
                folder,
                kind=published.ADAPTER,
                key=job.digest,
                hashes=False,
                sha256=target.content,
            )
        else:
            folder = layout.merged(request.build or "")
            remedy = "edit spec.merge or set spec.rerun to a new value to merge again"
            # The key names the settings of the merge; the digest in the ledger covers it.
            folder_manifest = manifest.verify(
                folder, kind=published.MERGED, key=None, hashes=False, sha256=target.content
            )
        files = {file.name: file for file in _chosen(folder, folder_manifest, target.what, remedy)}
        if target.what == "adapter":
            files = {file.name: file for file in _tokenizer(job, layout, request)} | files
        if target.hugging_face is not None and CARD in files:
            files[CARD] = _card(job, layout, request, target.what, folder_manifest, files[CARD])
    except manifest.ManifestError as problem:
        raise ResumeRefused(
            f"{problem}, so it is not published: to train again, set spec.rerun to a new value"
        ) from problem
    ordered = tuple(files[name] for name in sorted(files))
    entries = tuple(
        manifest.Entry(name=file.name, size=file.size, sha256=file.sha256) for file in ordered
    )
    facts = {name: folder_manifest.facts[name] for name in FACTS if name in folder_manifest.facts}
    document = manifest.as_json(
        manifest.Manifest(
            kind=folder_manifest.kind,
            key=folder_manifest.key,
            files=entries,
            facts=facts | {CONTENT_FACT: target.content},
        )
    )
    text = json.dumps(document, indent=1, sort_keys=True)
    return Content(files=ordered, manifest=f"{text}\n".encode())


def _card(
    job: JobConfig,
    layout: Layout,
    request: PublishStageRequest,
    what: str,
    folder_manifest: manifest.Manifest,
    card: File,
) -> File:
    """Return the model card for a hub. folder_manifest: of the published folder."""
    text = b"".join(card.read())
    card.require(hashlib.sha256(text).hexdigest())
    trained = folder_manifest
    if what != "adapter":
        # The manifest of the merged model has no results of the training, and the digest that it
        # has of the adapter covers none.
        trained = manifest.verify(
            layout.adapter,
            kind=published.ADAPTER,
            key=job.digest,
            hashes=False,
            sha256=request.adapter_manifest,
        )
        if trained.digest != folder_manifest.facts.get("adapter"):
            raise manifest.ManifestError(
                f"{layout.adapter.name} is not the adapter of the merged model"
            )
    base = _base(job, layout, request)
    rendered = hub_card.render(
        job, what, text.decode(errors="replace"), trained=trained.facts, base=base.facts
    )
    return File.document(CARD, rendered.encode())


def is_published(name: str, what: str) -> bool:
    """Report whether a file with this name, relative to its folder, is published."""
    return any(
        fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
        for pattern in NAMES[what]
    )


def _chosen(
    folder: Path, folder_manifest: manifest.Manifest, what: str, remedy: str
) -> Iterator[File]:
    for entry in folder_manifest.files:
        if is_published(entry.name, what):
            yield _file(folder, entry, remedy)
        else:
            log(f"{folder.name}/{entry.name} is not published")


def _tokenizer(job: JobConfig, layout: Layout, request: PublishStageRequest) -> Iterator[File]:
    for entry in _base(job, layout, request).files:
        if base_files.is_tokenizer(entry.name):
            yield _file(layout.base, entry, "set spec.rerun to a new value to train again")


def _base(job: JobConfig, layout: Layout, request: PublishStageRequest) -> manifest.Manifest:
    return manifest.verify(
        layout.base,
        kind=published.BASE,
        key=job.digest,
        hashes=False,
        sha256=request.base_manifest,
    )


def _file(folder: Path, entry: manifest.Entry, remedy: str) -> File:
    return File(
        path=folder / entry.name,
        name=entry.name,
        size=entry.size,
        sha256=entry.sha256,
        remedy=remedy,
    )
