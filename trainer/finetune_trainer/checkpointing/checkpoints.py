"""Checkpoints that can be trusted: published by rename, verified before use, newest valid first.

A checkpoint that a kill or a full disk left damaged, or that a failing disk does not give back, is
set aside under ``.corrupt-…`` (the next good one replaces it), and the one before it is used: a run
never starts over because its last save broke. Nor does it where none can be read: the next attempt
may read them.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.runtime.progress import log
from finetune_trainer.runtime.volume_errors import is_broken_volume

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
    """Publish ``scratch`` as the checkpoint of ``step`` and drop all but the newest ``KEEP``.

    The one of step ``spare`` stays in any case.
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
    folder: Path, *, key: str, versions: dict[str, str], told: Callable[[str], None] = log
) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None; set others aside, and have that ``told``.

    Raises ResumeRefused for one of another revision or made with other library versions: going on
    from it would train something that nobody asked for. Raises OSError where the disk fails and no
    intact one is left; then those that could not be read stay where they are.
    """
    unreadable: dict[Path, OSError] = {}
    for path in _numbered(folder):
        try:
            found = manifest.verify(path, kind=KIND, key=None)
        except manifest.ManifestError as problem:
            told(f"checkpoint {path.name} is damaged and set aside: {problem}")
            _set_aside(path)
            continue
        except OSError as error:
            if not is_broken_volume(error):
                raise
            log(f"checkpoint {path.name} cannot be read ({error}): trying the one before it")
            unreadable[path] = error
            continue
        if found.key != key:
            raise ResumeRefused(
                f"checkpoint {path.name} belongs to another job or dataset ({found.key}, this one "
                f"is {key}): delete checkpoints/ on the volume, or set spec.rerun to train anew"
            )
        changed = [
            f"{name} {found.facts['versions'].get(name)} → {version}"
            for name, version in versions.items()
            if found.facts["versions"].get(name) != version
        ]
        if changed:
            raise ResumeRefused(
                f"checkpoint {path.name} was made with other library versions "
                f"({', '.join(changed)}): resume with the image that began the training, or set "
                "spec.rerun to train anew"
            )
        for lost, why in unreadable.items():
            told(
                f"checkpoint {lost.name} cannot be read ({why}) and is set aside: have the disk "
                "behind spec.storage.storageClassName looked at"
            )
            _set_aside(lost)
        return Checkpoint(step=found.facts["step"], path=path, facts=found.facts)
    for first in unreadable.values():
        names = ", ".join(path.name for path in unreadable)
        raise OSError(first.errno, f"{first.strerror}, at each checkpoint: {names}") from first
    return None


def of_step(folder: Path, step: int, *, key: str) -> Path:
    """Return the checkpoint of a step; raises ResumeRefused where it is not intact."""
    path = folder / f"step-{step}"
    try:
        manifest.verify(path, kind=KIND, key=key)
    except manifest.ManifestError as problem:
        raise ResumeRefused(
            f"the checkpoint with the lowest loss on the held-out rows is damaged ({problem}): set "
            "spec.rerun to train anew"
        ) from None
    return path


def _set_aside(path: Path) -> None:
    aside = path.with_name(f".corrupt-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _numbered(folder: Path) -> list[Path]:
    try:
        # Not by glob(), for which a folder that cannot be read may be an empty one.
        found = [path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)
