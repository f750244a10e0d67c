"""Small file operations: JSON, digests, durable writes."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file, untrusted_json
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.volume_layout import partial_path


def fresh(scratch: Path) -> Path:
    """Empty the folder ``scratch``, which an earlier attempt may have filled, and return it."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with untrusted_file.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically.

    A reader sees either the old or the new content, even after a power failure.
    """
    part = partial_path(path)
    with part.open("w") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.chmod(0o644)
    part.rename(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file or folder to disk (fsync), so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the base model.

    Raise InvalidSpec, with the file's name, if it cannot be read or is not an object.
    """
    try:
        document = untrusted_json.parse(untrusted_file.read_text(path))
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{path.name} of the model cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path.name} of the model is not a JSON object")
    return document
