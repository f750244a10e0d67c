"""A shared folder of models that spares a download: ``storage.baseCache``.

It holds ``models--org--name/snapshots/<commit>/`` as the hub's own client writes it, so that one
``hf download --cache-dir`` fills it. Only what has the very SHA-256 that the hub tells is taken.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.runtime.progress import log
from finetune_trainer.sources.repository import OnBytes, Repository, reporting_bytes
from finetune_trainer.sources.transfer import digest_while_copying
from finetune_trainer.volume_layout import partial_path

VARIABLE = "FINETUNE_BASE_CACHE"


def take(
    repository: Repository, names: Iterable[str], into: Path, *, on_bytes: OnBytes
) -> dict[str, str]:
    """Copy what the cache has of the files into a folder; return their SHA-256 by name."""
    root = os.environ.get(VARIABLE)
    if not root:
        return {}
    folder = Path(root) / f"models--{repository.name.replace('/', '--')}"
    snapshot = folder / "snapshots" / repository.commit
    if not snapshot.is_dir():
        log(f"the base cache has no {repository.name} at {repository.commit[:12]}")
        return {}
    taken = {}
    with reporting_bytes(into, on_bytes):
        for name in names:
            digest = _copied(snapshot / name, into / name, repository.files[name].sha256)
            if digest is not None:
                taken[name] = digest
    log(f"{len(taken)} files of {repository.name} are from the base cache")
    return taken


def _copied(source: Path, target: Path, expected: str | None) -> str | None:
    if expected is None or target.exists():
        return None
    part = partial_path(target)
    try:
        if not source.is_file():
            return None
        digest = digest_while_copying(source, part)
    except PermissionError as error:
        log(f"{source.name} in the base cache may not be read ({error}): it is downloaded")
        return None
    if digest != expected:
        part.unlink()
        log(
            f"{source.name} in the base cache has another SHA-256 than on the hub: it is downloaded"
        )
        return None
    part.rename(target)
    return digest
