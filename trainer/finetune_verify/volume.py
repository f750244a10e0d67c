"""Read the volume volume: manifests, digests of the listed files, and the reference."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts import reference, untrusted_json
from finetune_api.contracts.redaction import one_line
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


def read(path: Path, kind: str) -> Folder:
    """Return the manifest of a published folder. Raise Mismatch if it is missing or malformed."""
    try:
        document = untrusted_json.parse((path / MANIFEST).read_text())
        found = Folder(
            path=path,
            kind=document["kind"],
            key=document["key"],
            digest=document["digest"],
            facts=document["facts"],
            files=tuple(document["files"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"{path.name}/{MANIFEST} cannot be read: {error!r}") from error
    if found.kind != kind:
        raise Mismatch(f"{path.name}/ has content of kind {found.kind}, not {kind}")
    return found


async def check_digests(
    folders: list[Folder], on_read: Callable[[int], None] = lambda count: None
) -> None:
    """Compare every file with its manifest. Raise Mismatch, with the name of the file.

    on_read: is called, by any thread, with the number of bytes that were just read.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
        checks = [
            loop.run_in_executor(pool, _check, folder.path, entry, on_read)
            for folder in folders
            for entry in sorted(folder.files, key=lambda entry: -entry["size"])
        ]
        try:
            await asyncio.gather(*checks)
        finally:
            for check in checks:
                check.cancel()


def _check(folder: Path, entry: dict[str, Any], on_read: Callable[[int], None]) -> None:
    path, name = folder / entry["name"], f"{folder.name}/{entry['name']}"
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["size"]:
                raise Mismatch(f"{name} has {size} bytes instead of {entry['size']}")
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


def read_reference(work: Path) -> reference.Reference | None:
    """Return the reference, or None if the training recorded none."""
    path = work / reference.FOLDER
    if not (path / MANIFEST).is_file():
        return None
    try:
        return reference.Reference.model_validate_json((path / reference.FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise Mismatch(
            f"{reference.FOLDER}/{reference.FILE} cannot be read: {one_line(error)}"
        ) from error
