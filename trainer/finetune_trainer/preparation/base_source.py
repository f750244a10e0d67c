"""The files of a base from its source: the small ones first, which show whether it can be used."""

from collections.abc import Sequence
from pathlib import Path

from finetune_trainer.models import base_files
from finetune_trainer.runtime.progress import Progress
from finetune_trainer.sources import Repository, Store, cache
from finetune_trainer.volume import disk


def download_small(
    name: str, store: Store, repository: Repository, scratch: Path
) -> tuple[list[str], dict[str, str]]:
    """Download all files but the weights; return their names, and their SHA-256 by name.

    name: of the model. scratch: folder of the files, on the volume. Raise VolumeFull.
    """
    small = base_files.side_files(repository.files)
    small += [base_files.INDEX] if base_files.INDEX in repository.files else []
    disk.require(scratch.parent, repository.size_of(small), f"model {name}")
    scratch.mkdir(exist_ok=True)
    return small, store.download(repository, small, scratch, on_bytes=lambda count: None)


def download_weights(
    store: Store,
    repository: Repository,
    shards: Sequence[str],
    scratch: Path,
    progress: Progress,
    *,
    left: int,
) -> dict[str, str]:
    """Download the weights that the cache does not have; return the SHA-256 of all by name.

    left: bytes that are not in the folder yet.
    """
    size = repository.size_of(shards)
    progress.fetching(left, size)

    def on_bytes(count: int) -> None:
        progress.transferred(count, size)

    digests = cache.take(repository, shards, scratch, on_bytes=on_bytes)
    missing = [shard for shard in shards if shard not in digests]
    return digests | store.download(repository, missing, scratch, on_bytes=on_bytes)
