"""Read the volume: manifests, digests of the listed files, and the reference.

vLLM loads the files at another time than the digests are computed. So the identity of each file is
recorded with its digest: if it is the same after vLLM has loaded the file, vLLM loaded the content
that has the digest. A client that can write the volume can set the time of the last modification,
but not the time of the last change (ctime), which the file system or its server sets.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts import reference
from finetune_api.safety import untrusted_file, untrusted_json
from finetune_api.safety.redaction import one_line
from finetune_verify.errors import Mismatch

MANIFEST = "manifest.json"
READERS = 2
"""Files read in parallel. More would slow down vLLM, which loads the same files."""
READ_BYTES = 1 << 20
"""Bytes per read."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A published folder with its manifest, whose digests are not checked yet."""

    path: Path
    kind: str
    key: str
    digest: str
    facts: dict[str, Any]
    files: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Changes if a file is written or replaced. Times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file whose digest is that of its manifest."""

    folder: Path
    entry: dict[str, Any]
    identity: Identity


def read(path: Path, kind: str, *, sha256: str) -> Folder:
    """Return the manifest of a published folder.

    sha256: that of the manifest that the stage published, from the ledger. Raise Mismatch if the
    manifest has another one, or is missing or malformed.
    """
    try:
        content = untrusted_file.read_bytes(path / MANIFEST, follow_links=False)
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            raise Mismatch(
                f"{path.name}/ is not the folder that was published: the SHA-256 of its "
                f"{MANIFEST} is {actual}, but the ledger in status.revisions has {sha256}"
            )
        document = untrusted_json.parse(content.decode())
        folder = Folder(
            path=path,
            kind=document["kind"],
            key=document["key"],
            digest=document["digest"],
            facts=document["facts"],
            files=tuple(document["files"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"{path.name}/{MANIFEST} cannot be read: {error!r}") from error
    if folder.kind != kind:
        raise Mismatch(
            f"the manifest in {path.name}/ has the kind {folder.kind}, but the kind {kind} is "
            "expected"
        )
    return folder


async def check_digests(
    folders: Sequence[Folder], on_read: Callable[[int], None] = lambda count: None
) -> list[Checked]:
    """Compare the files of folders with their manifests. Raise Mismatch, with the name of a file.

    on_read: is called, by any thread, with the number of bytes that were just read.
    """
    for folder in folders:
        _require_no_other_file(folder)
    entries = [
        (folder.path, entry)
        for folder in folders
        for entry in sorted(folder.files, key=lambda entry: -entry["size"])
    ]
    return await _check_all(entries, on_read)


async def require_unchanged(folders: Sequence[Folder], checked: Sequence[Checked]) -> None:
    """Compare the files again that were written or replaced since their digests were computed.

    A change alone is no mismatch: the kubelet sets the owner of all files for each pod that mounts
    a volume. Raise Mismatch, with the name of a file.
    """
    for folder in folders:
        _require_no_other_file(folder)
    changed = [(file.folder, file.entry) for file in checked if not _is_unchanged(file)]
    await _check_all(changed, lambda count: None)


async def _check_all(
    entries: Sequence[tuple[Path, dict[str, Any]]], on_read: Callable[[int], None]
) -> list[Checked]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
        checks = [loop.run_in_executor(pool, _check, *entry, on_read) for entry in entries]
        try:
            return await asyncio.gather(*checks)
        finally:
            for check in checks:
                check.cancel()


def _is_unchanged(checked: Checked) -> bool:
    try:
        # A network file system returns the attributes of its server only if the file is opened.
        with untrusted_file.open_regular(
            checked.folder / checked.entry["name"], follow_links=False
        ) as file:
            return _identity(file) == checked.identity
    except OSError:
        return False


def _identity(file: FileIO) -> Identity:
    facts = os.fstat(file.fileno())
    return Identity(
        device=facts.st_dev,
        inode=facts.st_ino,
        size=facts.st_size,
        modified=facts.st_mtime_ns,
        changed=facts.st_ctime_ns,
    )


def _require_no_other_file(folder: Folder) -> None:
    """Raise Mismatch if a folder has a file that it was not published with: vLLM may load it."""
    paths = (path for path in folder.path.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder.path).as_posix() for path in paths}
    if unknown := names - {MANIFEST, *(entry["name"] for entry in folder.files)}:
        raise Mismatch(f"{folder.path.name}/{min(unknown)} is not in the manifest of the folder")


def _check(folder: Path, entry: dict[str, Any], on_read: Callable[[int], None]) -> Checked:
    path, name = folder / entry["name"], f"{folder.name}/{entry['name']}"
    try:
        with untrusted_file.open_regular(path, follow_links=False) as file:
            # Before the first byte is read: a later change gives the file another identity.
            identity = _identity(file)
            if identity.size != entry["size"]:
                raise Mismatch(f"{name} has {identity.size} bytes instead of {entry['size']}")
            digest = hashlib.sha256()
            buffer = memoryview(bytearray(READ_BYTES))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                on_read(count)
    except OSError as error:
        raise Mismatch(f"{name} cannot be read: {error}") from error
    if digest.hexdigest() != entry["sha256"]:
        raise Mismatch(
            f"{name} has SHA-256 {digest.hexdigest()[:16]}… instead of {entry['sha256'][:16]}…: it "
            "has changed since it was published"
        )
    return Checked(folder=folder, entry=entry, identity=identity)


def read_reference(work: Path) -> reference.Reference:
    """Return the reference, whose digest is checked. Raise Mismatch if it cannot be read."""
    path = work / reference.FOLDER
    try:
        return reference.Reference.model_validate_json(
            untrusted_file.read_bytes(path / reference.FILE, follow_links=False)
        )
    except (OSError, ValidationError) as error:
        raise Mismatch(
            f"{reference.FOLDER}/{reference.FILE} cannot be read: {one_line(error)}"
        ) from error
