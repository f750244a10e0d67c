"""Small file operations: JSON, digests, durable writes."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidSpec
from finetune_trainer.volume_layout import unfinished


def fresh(scratch: Path) -> Path:
    """Return ``scratch`` as an empty folder, whatever an earlier attempt left there."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write JSON so that a reader sees the old content or the new, even after a power cut."""
    part = unfinished(path)
    with part.open("w") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.chmod(0o644)
    part.rename(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Bring a file or folder to disk, so that it outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a base, or say which file is broken."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{path.name} of the model cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path.name} of the model is no JSON object")
    return document
