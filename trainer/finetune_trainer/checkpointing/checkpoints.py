"""Checkpoints: published by rename, verified before use, newest intact one first.

A checkpoint that is damaged or unreadable is set aside as ``.corrupt-…`` (the next published one
removes it), and the previous one is used: a run does not start over because its last checkpoint
broke. If no checkpoint is readable, it does not start over either, because the next attempt may
read them.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.runtime.log import log
from finetune_trainer.volume.volume_errors import is_broken_volume

KIND = "checkpoint"
KEEP = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    path: Path
    facts: dict[str, Any]


def save(
    folder: Path,
    scratch: Path,
    *,
    step: int,
    key: str,
    facts: dict[str, Any],
    spare: int | None = None,
) -> Path:
    """Publish ``scratch`` as the checkpoint of ``step`` and remove all but the newest ``KEEP``.

    The checkpoint of step ``spare`` is kept, too.
    """
    final = folder / f"step-{step}"
    manifest.publish(scratch, final, kind=KIND, key=key, facts=facts)
    for old in _numbered(folder)[KEEP:]:
        if old.name != f"step-{spare}":
            manifest.withdraw(old)
    manifest.sweep(folder)
    for broken in folder.glob(".corrupt-*"):
        shutil.rmtree(broken, ignore_errors=True)
    return final


def newest(
    folder: Path, *, key: str, versions: dict[str, str], warn: Callable[[str], None] = log
) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None; set damaged ones aside and ``warn`` about each.

    Raise ResumeRefused if it belongs to another revision or dataset, or was written with other
    library versions: resuming from it would train a different model. Raise OSError if the disk
    fails and no intact checkpoint is left; unreadable ones then stay in place.
    """
    unreadable: dict[Path, OSError] = {}
    for path in _numbered(folder):
        try:
            saved = manifest.verify(path, kind=KIND, key=None)
        except manifest.ManifestError as problem:
            warn(f"checkpoint {path.name} is damaged and was set aside: {problem}")
            _set_aside(path)
            continue
        except OSError as error:
            if not is_broken_volume(error):
                raise
            log(f"checkpoint {path.name} cannot be read ({error}); trying the previous one")
            unreadable[path] = error
            continue
        if saved.key != key:
            raise ResumeRefused(
                f"checkpoint {path.name} belongs to another revision or dataset (key "
                f"{saved.key} instead of {key}): delete checkpoints/ on the volume, or set "
                "spec.rerun to a new value to retrain"
            )
        changed = [
            f"{name} {saved.facts['versions'].get(name)}, now {version}"
            for name, version in versions.items()
            if saved.facts["versions"].get(name) != version
        ]
        if changed:
            raise ResumeRefused(
                f"checkpoint {path.name} was written with other library versions "
                f"({'; '.join(changed)}): resume with the trainer image that started the training, "
                "or set spec.rerun to a new value to retrain"
            )
        for lost, why in unreadable.items():
            warn(
                f"checkpoint {lost.name} cannot be read ({why}) and was set aside: check the disk "
                "behind spec.storage.storageClassName"
            )
            _set_aside(lost)
        return Checkpoint(step=saved.facts["step"], path=path, facts=saved.facts)
    for first in unreadable.values():
        names = ", ".join(path.name for path in unreadable)
        raise OSError(first.errno, f"{first.strerror} at every checkpoint: {names}") from first
    return None


def of_step(folder: Path, step: int, *, key: str) -> Path:
    """Return the checkpoint of a step. Raise ResumeRefused if it is not intact."""
    path = folder / f"step-{step}"
    try:
        manifest.verify(path, kind=KIND, key=key)
    except manifest.ManifestError as problem:
        raise ResumeRefused(
            f"the checkpoint with the lowest loss on the held-out rows is damaged ({problem}): to "
            "retrain, set spec.rerun to a new value"
        ) from None
    return path


def _set_aside(path: Path) -> None:
    aside = path.with_name(f".corrupt-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _numbered(folder: Path) -> list[Path]:
    try:
        # glob() would treat an unreadable folder as empty.
        paths = [path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name)]
    except FileNotFoundError:
        return []
    return sorted(paths, key=lambda path: int(path.name[5:]), reverse=True)
