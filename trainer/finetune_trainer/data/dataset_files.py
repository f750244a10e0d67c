"""Pins the files of a dataset, then downloads them or uses them where they are mounted."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.data.statistics import SourceRecord
from finetune_api.v1alpha1.sources import CONFIGMAP_SOURCE_PREFIX, Kind
from finetune_trainer.data.rows import readers
from finetune_trainer.data.selection import card
from finetune_trainer.data.selection.select import Selection, select
from finetune_trainer.errors import DatasetInvalid, InvalidSpec
from finetune_trainer.runtime.log import log
from finetune_trainer.sources import Repository, Store, bytes_below, open_store
from finetune_trainer.sources.repository import OnBytes, digest_of
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import fresh, sha256_of
from finetune_trainer.volume_layout import Layout

LARGEST_CARD = 8 << 20
MOST_RECORDED = 10
"""Files of a dataset that its record names."""


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """A dataset at one commit, and the files that are read."""

    kind: Kind
    spec: Rows
    store: Store
    repository: Repository
    selection: Selection
    described: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 (hex) of the files that declare configurations, by name."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that are read, in order."""
        return self.selection.files

    @property
    def record(self) -> SourceRecord:
        """What the manifest and the status say about the files."""
        config = self.selection.config
        return SourceRecord(
            dataset=self.kind,
            config=None if config is None else printable(config),
            commit=self.repository.commit,
            split=self.selection.split,
            file_count=len(self.files),
            files=[printable(name) for name in self.files[:MOST_RECORDED]],
        )

    @property
    def size(self) -> int:
        """Bytes to download; mounted files are read in place."""
        return self.repository.size_of(
            name for name in self.files if not self.store.local_path(name)
        )

    def folder(self, layout: Layout) -> Path:
        """Return the download folder; partial downloads of the same commit are resumed."""
        return layout.scratch(f"rows-of-{self.kind}-{self.repository.commit[:12]}")

    def remaining(self, layout: Layout) -> int:
        """Return the bytes that are not downloaded yet."""
        return max(0, self.size - bytes_below(self.folder(layout)))


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Local files, each with its name for messages, and one digest of all files."""

    files: tuple[tuple[Path, str], ...]
    digest: str
    digests: Mapping[str, str]
    """SHA-256 (hex) of each file by its name in the source."""

    def first(self) -> readers.Row | None:
        """Return the first row that can be read; None if there is none. Raises DatasetInvalid."""
        return next((row for row in self.rows() if not row.problem), None)

    def rows(self) -> Iterator[readers.Row]:
        """Yield the rows of all files. Raises DatasetInvalid."""
        for path, name in self.files:
            yield from readers.read(path, name)


def pin(kind: Kind, rows: Rows, layout: Layout) -> RowSource:
    """Pin a dataset and select the files of its split. Raises InvalidSpec or DatasetInvalid."""
    store = open_store(kind, rows)
    repository = store.pin()
    described: dict[str, str] = {}
    alone = len(repository.files) == 1 and rows.source.endswith("/" + next(iter(repository.files)))
    if alone:
        if rows.split != "train":
            raise InvalidSpec(
                f"{kind}.source is the single file {rows.source}, which has no split "
                f"{rows.split!r}: remove {kind}.split"
            )
        selection = Selection(config=None, split=rows.split, files=tuple(repository.files))
    else:
        texts = _card(store, repository, layout)
        described = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
        card_texts = {name: text.decode(errors="replace") for name, text in texts.items()}
        selection = select(repository.files, card_texts, rows, kind)
    source = RowSource(
        kind=kind,
        spec=rows,
        store=store,
        repository=repository,
        selection=selection,
        described=described,
    )
    record = source.record
    others = record.file_count - len(record.files)
    log(
        f"{kind} {repository.name} is pinned to commit {repository.commit[:12]}; "
        f"configuration: {record.config or 'none'}; split: {record.split}; "
        f"files: {', '.join(record.files)}{f' and {others} more' if others else ''}"
    )
    return source


def _card(store: Store, repository: Repository, layout: Layout) -> dict[str, bytes]:
    """Return the content of the files that can declare configurations, by name."""
    names = [name for name in card.FILES if name in repository.files]
    for name in names:
        if repository.files[name].size > LARGEST_CARD:
            raise DatasetInvalid(
                f"{name} of {repository.kind} {repository.name} has more than "
                f"{LARGEST_CARD >> 20} MiB, so its metadata is not read: shorten the file"
            )
    folder = fresh(layout.scratch(f"card-of-{repository.kind}"))
    try:
        if remote := [name for name in names if not store.local_path(name)]:
            store.download(repository, remote, folder, on_bytes=lambda count: None)
        paths = {name: store.local_path(name) or folder / name for name in names}
        return {name: path.read_bytes() for name, path in paths.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(source: RowSource, layout: Layout, *, on_bytes: OnBytes, copies: bool = False) -> Fetched:
    """Download the files that are not mounted. ``on_bytes`` is passed to the store.

    copies: copy mounted files, too, so that nobody changes them after their digests are known.
    """
    repository = source.repository

    def local_path(name: str) -> Path | None:
        return None if copies else source.store.local_path(name)

    remote = [name for name in source.files if not local_path(name)]
    folder = source.folder(layout)
    folder.mkdir(exist_ok=True)
    if remote:
        what = f"{source.kind} {repository.name} ({disk.human(source.size)} in {len(remote)} files)"
        disk.require(layout.work, source.remaining(layout), what)
    digests = source.store.download(repository, remote, folder, on_bytes=on_bytes)
    files = [(local_path(name) or folder / name, name) for name in source.files]
    digests |= {name: sha256_of(path) for path, name in files if name not in digests}
    digest = "sha256:" + digest_of(f"{digests[name]}  {name}" for name in source.files)
    if source.spec.source.startswith(CONFIGMAP_SOURCE_PREFIX):
        # Keys of a ConfigMap need no file extension; such rows are read as JSON lines.
        files = [
            (path, name if name.endswith(readers.SUFFIXES) else f"{name}.jsonl")
            for path, name in files
        ]
    return Fetched(files=tuple(files), digest=digest, digests=digests)
