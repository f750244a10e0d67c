"""Receives the files of a published folder, and checks each against its manifest."""

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from finetune_cli.copying.vouched import is_of_a_model
from finetune_cli.errors import CommandFailed, Interrupted
from finetune_trainer.checkpointing.manifest import FILE, Entry, Manifest
from finetune_trainer.volume.files import sha256_of
from finetune_trainer.volume_layout import partial_path

CHUNK = 1 << 20
OnBytes = Callable[[int], None]


def expected(manifest: Manifest) -> dict[str, Entry]:
    """Return the files of a manifest by name.

    Raises CommandFailed for a name out of the folder, or of a file that belongs to no model.
    """
    for entry in manifest.files:
        path = PurePosixPath(str(entry.name))
        if path.is_absolute() or ".." in path.parts or str(path) != entry.name or path.name == FILE:
            raise CommandFailed(
                f"the manifest on the volume has the invalid file name {entry.name!r}: do not use "
                "this model"
            )
        if not is_of_a_model(entry.name):
            raise CommandFailed(
                f"the manifest on the volume has the file {entry.name!r}, which is not a file of a "
                "model: do not use this model"
            )
    return {entry.name: entry for entry in manifest.files}


def missing(files: Mapping[str, Entry], into: Path) -> list[str]:
    """Return the files that an earlier call did not complete.

    Raises CommandFailed if the folder contains another file under one of the names.
    """
    absent = []
    for name, entry in files.items():
        path = into / name
        if not path.exists():
            absent.append(name)
        elif path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise CommandFailed(
                f"the file {path} belongs to another model: set DEST to another folder, or delete "
                "the folder that contains this file"
            )
    return absent


def receive(stream: IO[bytes], files: Mapping[str, Entry], into: Path, on_bytes: OnBytes) -> None:
    """Write the files of a tar stream; a file gets its name when its digest is correct.

    on_bytes: called with the number of bytes of each chunk. Raises Interrupted, or CommandFailed
    for a file that differs from its manifest.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                entry, content = files.get(member.name), archive.extractfile(member)
                if entry is None or content is None:
                    raise CommandFailed(
                        f"the copy pod sent the file {member.name!r}, which is not in the manifest"
                    )
                if member.size != entry.size:
                    raise CommandFailed(
                        f"{entry.name} has {member.size} bytes on the volume, but {entry.size} "
                        "bytes in the manifest, so the volume was changed: do not use this model"
                    )
                _write(content, entry, into / entry.name, on_bytes)
    except tarfile.TarError as error:
        raise Interrupted(str(error)) from error


def _write(content: IO[bytes], entry: Entry, target: Path, on_bytes: OnBytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest = partial_path(target), hashlib.sha256()
    with part.open("wb") as out:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
            on_bytes(len(chunk))
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise CommandFailed(
            f"{entry.name} has the SHA-256 {digest.hexdigest()}, but the manifest contains the "
            f"SHA-256 {entry.sha256}. The file on the volume is damaged: to train again, set "
            "spec.rerun to a new value"
        )
    part.rename(target)
