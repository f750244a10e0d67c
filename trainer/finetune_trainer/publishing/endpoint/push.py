"""Copies adapter and reference to the claim of a shared endpoint, and reads the copy back.

The folder is named by the digest of the adapter's manifest, so it never has other content. It is
written under a name that begins with a dot, which the endpoint does not accept, and renamed when it
is complete. A file that an interrupted attempt has completed is not copied again.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts import reference
from finetune_api.contracts.endpoint import BASE_FILES_FACT
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.publish_targets import EndpointTarget, PublishTargetRequest
from finetune_api.safety import untrusted_file
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.compatibility import shared_endpoint
from finetune_trainer.errors import ResumeRefused, Transient
from finetune_trainer.publishing.content import File
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.volume import disk, volume_errors
from finetune_trainer.volume.files import flush
from finetune_trainer.volume_layout import Layout, partial_path

REMEDY = "set spec.rerun to a new value to train again"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The files to copy, by their paths below the folder."""

    endpoint: EndpointTarget
    content: str
    """SHA-256 (hex) of the adapter's manifest.json, and name of the folder."""

    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """Name of the FineTuneEndpoint."""
        return self.endpoint.shared.name

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(job: JobConfig, layout: Layout, target: PublishTargetRequest) -> Copy:
    """Return what to copy.

    Raise TargetRejected or InvalidSpec, or ResumeRefused if a folder is not the one in the ledger.
    """
    assert target.endpoint is not None
    endpoint = target.endpoint
    if not endpoint.reference:
        raise TargetRejected(
            "the training recorded no reference, so FineTuneEndpoint "
            f"{endpoint.shared.name} cannot verify the adapter and would never serve it: {REMEDY}"
        )
    try:
        adapter = manifest.verify(
            layout.adapter,
            kind=published.ADAPTER,
            key=job.digest,
            hashes=False,
            sha256=target.content,
        )
        recorded = manifest.verify(
            layout.reference,
            kind=reference.KIND,
            key=f"{adapter.key} {adapter.digest}",
            hashes=False,
            sha256=endpoint.reference,
        )
    except manifest.ManifestError as problem:
        raise ResumeRefused(f"{problem}, so it is not published: {REMEDY}") from problem
    # A training that was prepared for another kind of serving was not checked before.
    shared_endpoint.check_recipe(job.training, endpoint.shared)
    # An adapter of an earlier version has no digests; the endpoint then compares commits.
    if (of_base := adapter.facts.get(BASE_FILES_FACT)) is not None:
        shared_endpoint.check_files(of_base, endpoint.shared)
    shared_endpoint.check_codes(adapter.facts["quantizedModules"], endpoint.shared)
    files = (*_files(layout.adapter, adapter), *_files(layout.reference, recorded))
    return Copy(endpoint=endpoint, content=target.content, files=files)


def _files(folder: Path, listed: manifest.Manifest) -> Iterator[File]:
    entries = [(entry.name, entry.size, entry.sha256) for entry in listed.files]
    path = folder / manifest.FILE
    for name, size, sha256 in (*entries, (manifest.FILE, path.stat().st_size, listed.sha256)):
        yield File(
            path=folder / name,
            name=f"{folder.name}/{name}",
            size=size,
            sha256=sha256,
            remedy=REMEDY,
        )


def publish(copy: Copy, outcome: Outcome, transfer: Transfer) -> None:
    """Copy the files, and read them back. Raise TargetRejected or ResumeRefused."""
    root, name = Path(copy.endpoint.folder), copy.content
    final, partial = root / name, root / f".{name}"
    for leftover in root.iterdir():
        if leftover.name not in (name, partial.name, *copy.endpoint.keep):
            log(f"{leftover.name} is no longer needed at FineTuneEndpoint {copy.name}")
            _remove(leftover)
    if _is_complete(copy, final):
        transfer.stored(copy.size)
    else:
        _remove(final)
        _write(copy, partial, transfer)
        partial.rename(final)
        flush(root)
    if not _is_complete(copy, final, transfer):
        raise TargetRejected(
            f"the volume of FineTuneEndpoint {copy.name} does not hold the files that "
            "were copied to it: check the volume of the endpoint"
        )
    outcome.completed(f"endpoint://{copy.name}/{copy.endpoint.path}/{name}", f"sha256:{name}")


@contextmanager
def errors_of_the_claim(copy: Copy) -> Iterator[None]:
    """Translate errors of the claim within this block: it is not the volume of the job."""
    try:
        yield
    except Exception as error:
        name = copy.name
        if volume_errors.is_full_volume(error):
            raise TargetRejected(
                f"the volume of FineTuneEndpoint {name} is full: raise storage.size of the "
                "FineTuneEndpoint"
            ) from error
        if volume_errors.is_broken_volume(error):
            raise Transient(
                f"I/O error on the volume of FineTuneEndpoint {name}: {error}"
            ) from error
        raise


def _write(copy: Copy, partial: Path, transfer: Transfer) -> None:
    if partial.is_symlink() or not partial.is_dir():
        _remove(partial)
        partial.mkdir()
    wanted = {partial / file.name: file for file in copy.files}
    for path in [*partial.rglob("*")]:
        # Of another attempt, which may have been interrupted anywhere.
        if path.is_symlink() or (not path.is_dir() and path not in wanted):
            path.unlink()
    missing = [file for path, file in wanted.items() if not _holds(path, file)]
    _require_space(copy, partial, sum(file.size for file in missing))
    transfer.stored(copy.size - sum(file.size for file in missing))
    for file in missing:
        _copy(file, partial / file.name, transfer)
        transfer.check()
    for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
        folder.chmod(0o755)
        flush(folder)


def _require_space(copy: Copy, folder: Path, needed: int) -> None:
    free = disk.free_bytes(folder)
    if free < needed + disk.RESERVE:
        raise TargetRejected(
            f"the adapter needs {disk.human(needed)}, but only {disk.human(free)} are free on the "
            f"volume of FineTuneEndpoint {copy.name}: raise storage.size of the "
            f"FineTuneEndpoint by at least {disk.human(needed + disk.RESERVE - free)}"
        )


def _copy(file: File, target: Path, transfer: Transfer) -> None:
    """Copy a file, and compare its digest in the same pass."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest = partial_path(target), hashlib.sha256()
    with part.open("wb") as out:
        for chunk in transfer.sending(file.read()):
            digest.update(chunk)
            out.write(chunk)
            transfer.stored(len(chunk))
        out.flush()
        os.fsync(out.fileno())
    file.require(digest.hexdigest())
    part.chmod(0o644)
    part.rename(target)


def _is_complete(copy: Copy, folder: Path, transfer: Transfer | None = None) -> bool:
    """Report whether a folder has exactly the files. transfer: counts the bytes that are read."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    paths = {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    if paths != {folder / file.name for file in copy.files}:
        return False
    for file in copy.files:
        if not _holds(folder / file.name, file):
            return False
        if transfer is not None:
            transfer.read_back(file.size)
    return True


def _holds(path: Path, file: File) -> bool:
    """Report whether a path is a regular file with the content of a file."""
    try:
        with untrusted_file.open_regular(path, follow_links=False) as opened:
            return (
                os.fstat(opened.fileno()).st_size == file.size
                and hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
            )
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
