"""A shared folder of models that saves downloads (``storage.baseCache``).

It has the layout of the hub client, ``models--org--name/snapshots/<commit>/``, so that
``hf download --cache-dir`` fills it. A file is used only if it has the SHA-256 that its
source states.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.runtime.log import log
from finetune_trainer.sources.repository import OnBytes, Repository, reporting_bytes
from finetune_trainer.sources.transfer import digest_while_copying
from finetune_trainer.volume_layout import partial_path

VARIABLE = "FINETUNE_BASE_CACHE"


def take(
    repository: Repository, names: Iterable[str], into: Path, *, on_bytes: OnBytes
) -> dict[str, str]:
    """Copy the files that the cache has into a folder; return their SHA-256 by name."""
    root = os.environ.get(VARIABLE)
    if not root:
        return {}
    folder = Path(root) / f"models--{repository.name.replace('/', '--')}"
    snapshot = folder / "snapshots" / repository.commit
    if not snapshot.is_dir():
        log(
            f"the base cache does not have {repository.name} at commit {repository.commit[:12]}: "
            "downloading the model"
        )
        return {}
    taken = {}
    with reporting_bytes(into, on_bytes):
        for name in names:
            digest = _copied(snapshot / name, into / name, repository.files[name].sha256)
            if digest is not None:
                taken[name] = digest
    log(f"{len(taken)} files of {repository.name} were copied from the base cache")
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
        log(f"{source.name} in the base cache is not readable ({error}): downloading the file")
        return None
    if digest != expected:
        part.unlink()
        log(
            f"the SHA-256 of {source.name} in the base cache differs from the SHA-256 that the "
            "source states: downloading the file"
        )
        return None
    part.rename(target)
    return digest
