"""Read the volume volume: manifests, digests of the listed files, and the reference."""

import asyncio
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts import reference
from finetune_verify.errors import Mismatch

MANIFEST = "manifest.json"
READERS = 2
"""Files read in parallel. More would slow down vLLM, which loads the same files."""


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
        document = json.loads((path / MANIFEST).read_text())
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


async def check_digests(folders: list[Folder]) -> None:
    """Compare every file with its manifest. Raise Mismatch, with the name of the file."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
        checks = [
            loop.run_in_executor(pool, _check, folder.path, entry)
            for folder in folders
            for entry in sorted(folder.files, key=lambda entry: -entry["size"])
        ]
        try:
            await asyncio.gather(*checks)
        finally:
            for check in checks:
                check.cancel()


def _check(folder: Path, entry: dict[str, Any]) -> None:
    path, name = folder / entry["name"], f"{folder.name}/{entry['name']}"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["size"]:
                raise Mismatch(f"{name} has {size} bytes instead of {entry['size']}")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Mismatch(f"{name} cannot be read: {error}") from error
    if digest != entry["sha256"]:
        raise Mismatch(
            f"{name} has SHA-256 {digest[:16]}… instead of {entry['sha256'][:16]}…: it has changed "
            "since it was published"
        )


def read_reference(work: Path) -> reference.Reference | None:
    """Return the reference, or None if the training recorded none."""
    path = work / reference.FOLDER
    if not (path / MANIFEST).is_file():
        return None
    try:
        return reference.Reference.model_validate_json((path / reference.FILE).read_bytes())
    except (OSError, ValidationError) as error:
        text = " ".join(str(error).split())[:200]
        raise Mismatch(f"{reference.FOLDER}/{reference.FILE} cannot be read: {text}") from error
