"""Takes over a volume that an earlier FineTuneJob used, and whose files nothing vouches for.

Anybody may have written these files, and their manifests with them. So no manifest is read. A file
of the base or of a partial download of rows is reused if its source states its SHA-256 and the file
has it. All other files are deleted: checkpoints, adapters, merged models and references, too.

An interruption loses at most the reuse: whatever is left is verified again by the next attempt.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.runtime.log import log
from finetune_trainer.sources import RemoteFile, Repository, bytes_below
from finetune_trainer.volume.disk import human
from finetune_trainer.volume.files import sha256_of
from finetune_trainer.volume_layout import Layout

LOST_AND_FOUND = "lost+found"
"""A folder that ext4 creates for root, which the trainer may have no right to delete."""
UNDELETABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE)
"""Errors of forbidden files, and of folders that are nested too deeply."""


def take_over(layout: Layout, base: Repository, into: Path, *, rows: Iterable[Path]) -> None:
    """Move the verified files of the base into a scratch folder, and delete all other files.

    rows: folders of the datasets, which stay; ``keep_verified`` was called for them.
    """
    with _refusing():
        reused = _take_over(layout, base, into, rows=rows)
    log(
        f"the volume belonged to an earlier FineTuneJob: reused {reused} files of model "
        f"{base.name} ({human(bytes_below(into))}), because their SHA-256 matches the source, and "
        "deleted all files on the volume that could not be verified"
    )


def _take_over(layout: Layout, base: Repository, into: Path, *, rows: Iterable[Path]) -> int:
    """Return the number of reused files."""
    downloads = sorted(layout.work.glob(layout.scratch("base-*").name))
    pool = [path for path in (layout.base, *downloads) if _is_folder(path)]
    for folder in dict.fromkeys((*pool, into)):
        keep_verified(folder, base.files)
    into.mkdir(exist_ok=True)
    for folder in pool:
        for name, path in _files(folder):
            target = into / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
    kept = {layout.lock, into, *rows}
    for path in layout.work.iterdir():
        if path.name == LOST_AND_FOUND:
            with suppress(PermissionError):
                remove(path)
        elif path not in kept:
            remove(path)
    return sum(1 for _ in _files(into))


def keep_verified(folder: Path, files: Mapping[str, RemoteFile]) -> None:
    """Delete what a folder contains besides files with the SHA-256 that their source states."""
    with _refusing():
        if not _is_folder(folder):
            remove(folder)
            return
        for name, path in list(_entries(folder)):
            listed = files.get(name)
            if listed is None or not _is_file(path) or not _is_reusable(path, listed):
                remove(path)
        for parent, _, _ in os.walk(folder, topdown=False):
            if parent != str(folder) and not os.listdir(parent):
                os.rmdir(parent)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it exists."""
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise ResumeRefused for files that the trainer can neither read nor delete."""
    try:
        yield
    except (OSError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in UNDELETABLE:
            raise
        reason = one_line(error) if isinstance(error, OSError) else "folders are nested too deeply"
        raise ResumeRefused(
            f"the volume belonged to an earlier FineTuneJob, and a file on it cannot be deleted "
            f"({reason}): delete the PersistentVolumeClaim"
        ) from error


def _is_reusable(path: Path, listed: RemoteFile) -> bool:
    """Report whether a file is that of the source; False if the source states no SHA-256.

    The file of another user cannot get the mode of published files, and is not reused.
    """
    facts = path.stat()
    if listed.sha256 is None or facts.st_size != listed.size or facts.st_uid != os.geteuid():
        return False
    try:
        return sha256_of(path) == listed.sha256
    except PermissionError:
        return False


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in list(_entries(folder)) if _is_file(path))


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all entries below a folder except folders, by relative name; follow no link."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in [
            *names,
            *(subfolder for subfolder in folders if (Path(parent) / subfolder).is_symlink()),
        ]:
            path = Path(parent) / name
            yield path.relative_to(folder).as_posix(), path


def _raise(error: OSError) -> None:
    raise error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
