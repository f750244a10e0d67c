"""What the ledger says about the folder to copy. Pure.

Whoever can write the volume can replace any file on it, and the manifest as well. The ledger has
the SHA-256 of the manifest, which has those of all files.
"""

import hashlib
from pathlib import PurePosixPath

from finetune_cli.copying.selection import Selection
from finetune_cli.errors import CommandFailed
from finetune_trainer.checkpointing import manifest
from finetune_trainer.checkpointing.manifest import DESCRIPTIONS, FILE, Manifest

SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".png")
TEXTS = ("LICENSE", "NOTICE", "USE_POLICY")
"""Beginnings of names of files without such a suffix."""


def parsed(text: str, selection: Selection) -> Manifest:
    """Return the manifest in a text. Raises CommandFailed if it is not the one in the ledger."""
    file = f"{selection.folder}/{FILE}"
    try:
        listing = manifest.parse(text)
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"{file} is not a valid manifest ({error!r}): do not use this model"
        ) from None
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    if selection.manifest not in (None, sha256):
        raise CommandFailed(
            f"the SHA-256 of {file} is {sha256}, but the ledger records {selection.manifest} for "
            f"revision {selection.revision}, so the volume was changed: do not use this model"
        )
    if selection.digest not in (None, listing.digest):
        raise CommandFailed(
            f"the content of {selection.folder} has the digest {listing.digest}, but the ledger "
            f"records the digest {selection.digest} for revision {selection.revision}, so the "
            "volume was changed: do not use this model"
        )
    return listing


def summary(manifest: Manifest, selection: Selection, job: str) -> str:
    """Return which of the copied files the ledger vouches for, as the end of a sentence."""
    if selection.manifest is not None:
        return f", and the manifest matches the ledger of {job}"
    if selection.digest is None:
        return f". The ledger of {job} has no digest to compare"
    others = sorted(file.name for file in manifest.files if file.name in DESCRIPTIONS)
    vouched = f", and the digest of the model matches the ledger of {job}"
    return f"{vouched}, which does not cover {', '.join(others)}" if others else vouched


def is_of_a_model(name: str) -> bool:
    """Report whether a trainer publishes files with such names.

    Other programs use a file of a folder by its name alone, such as .envrc or sitecustomize.py.
    """
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return False
    return path.suffix in SUFFIXES or name in DESCRIPTIONS or path.name.startswith(TEXTS)
