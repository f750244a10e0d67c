"""Publish a folder atomically, with a manifest that proves later that it is intact.

Files are written into a scratch folder. Then each file gets its final mode, is hashed and flushed;
``manifest.json`` is written last, and the folder is renamed into place. The trainer treats a folder
without a valid manifest as absent.
"""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_file, untrusted_json
from finetune_trainer.volume.files import flush, sha256_of, write_json
from finetune_trainer.volume_layout import partial_path

FILE = "manifest.json"
DESCRIPTIONS = ("README.md", "loss.png", "loss_history.json", "events.out.tfevents.finetune")
"""Files that describe a folder. They are verified like all others but excluded from its digest, so
that equal results of two runs have equal digests, however long each run took."""


class ManifestError(Exception):
    """A published folder does not match its manifest; the text names the difference."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: path relative to the folder, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Files of a published folder, and facts about their origin."""

    kind: str
    key: str
    files: tuple[Entry, ...]
    facts: dict[str, Any]
    sha256: str = field(default="", compare=False)
    """SHA-256 (hex) of ``manifest.json``, which covers the digests of all files and all facts.

    The stage that publishes a folder reports it. The operator passes it to the next stages: nobody
    who can only write the volume can replace the folder.
    """

    @property
    def digest(self) -> str:
        """Digest of the folder's content, independent of the time of publishing."""
        content = [entry for entry in self.files if entry.name not in DESCRIPTIONS]
        lines = "".join(f"{entry.sha256}  {entry.name}\n" for entry in content)
        return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()

    def size(self) -> int:
        """Return the total size of all files in bytes."""
        return sum(entry.size for entry in self.files)


def publish(
    scratch: Path,
    final: Path,
    *,
    kind: str,
    key: str,
    facts: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """Publish ``scratch`` as ``final``, replacing it, and return the manifest.

    digests: digests by file name that need not be computed again.
    """
    # An attempt that was killed here left them in a scratch folder that is reused.
    for leftover in (scratch / FILE, partial_path(scratch / FILE)):
        leftover.unlink(missing_ok=True)
    files = []
    for path in sorted(path for path in scratch.rglob("*") if path.is_file()):
        name = path.relative_to(scratch).as_posix()
        # safetensors makes files readable by their owner only; vLLM may run as another user.
        path.chmod(0o644)
        digest = (digests or {}).get(name) or sha256_of(path)
        flush(path)
        files.append(Entry(name=name, size=path.stat().st_size, sha256=digest))
    for folder in (path for path in (scratch, *scratch.rglob("*")) if path.is_dir()):
        folder.chmod(0o755)
        flush(folder)
    manifest = Manifest(kind=kind, key=key, files=tuple(files), facts=dict(facts))
    write_json(scratch / FILE, as_json(manifest))
    manifest = replace(manifest, sha256=sha256_of(scratch / FILE))
    if final.exists():
        withdraw(final)
    scratch.rename(final)
    flush(final.parent)
    return manifest


def withdraw(folder: Path) -> None:
    """Remove a published folder; an interruption leaves a hidden folder, never a partial one."""
    rubbish = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(rubbish, ignore_errors=True)
    folder.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def read(folder: Path, *, sha256: str | None = None) -> Manifest:
    """Return the manifest of a folder without checking its files. Raise ManifestError.

    sha256: that of the manifest that was published; None accepts any manifest.
    """
    try:
        content = untrusted_file.read_bytes(folder / FILE)
    except FileNotFoundError:
        raise ManifestError(f"{folder.name}/ has no manifest") from None
    except untrusted_file.NotAFile:
        raise ManifestError(f"{folder.name}/{FILE} is not a regular file") from None
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise ManifestError(
            f"{folder.name}/ is not the folder that was published: the SHA-256 of its {FILE} is "
            f"{digest}, but the ledger in status.revisions has {sha256}"
        )
    try:
        return replace(parse(content.decode()), sha256=digest)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{folder.name}/{FILE} cannot be read: {error!r}") from error


def parse(text: str) -> Manifest:
    """Return the manifest in a text. Raise ValueError, KeyError or TypeError."""
    document = untrusted_json.parse(text)
    return Manifest(
        kind=document["kind"],
        key=document["key"],
        files=tuple(Entry(**entry) for entry in document["files"]),
        facts=document["facts"],
    )


def verify(
    folder: Path, *, kind: str, key: str | None, hashes: bool = True, sha256: str | None = None
) -> Manifest:
    """Return the manifest of ``folder`` if kind and key match and the files are those published.

    Raise ManifestError otherwise. Without ``hashes``, only names and sizes are compared. sha256:
    see ``read``.
    """
    manifest = read(folder, sha256=sha256)
    if manifest.kind != kind:
        raise ManifestError(
            f"the manifest in {folder.name}/ has the kind {manifest.kind}, but the kind {kind} is "
            "expected"
        )
    if key is not None and manifest.key != key:
        raise ManifestError(f"{folder.name}/ belongs to {manifest.key}, not {key}")
    for entry in manifest.files:
        path = folder / entry.name
        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            raise ManifestError(f"{folder.name}/{entry.name} is missing")
        if size != entry.size:
            raise ManifestError(
                f"{folder.name}/{entry.name} has {size} bytes instead of {entry.size}"
            )
        if hashes:
            check_digest(folder, entry)
    if unknown := _files(folder) - {FILE, *(entry.name for entry in manifest.files)}:
        # Libraries load some files by their name alone, such as adapter_config.json.
        raise ManifestError(f"{folder.name}/{min(unknown)} is not in the manifest of the folder")
    return manifest


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}


def check_digest(folder: Path, entry: Entry) -> None:
    """Raise ManifestError if a file of a published folder has changed."""
    if sha256_of(folder / entry.name) != entry.sha256:
        raise ManifestError(f"{folder.name}/{entry.name} has changed since it was published")


def valid(folder: Path, *, kind: str, key: str | None) -> Manifest | None:
    """Like ``verify``, but return None instead of raising ManifestError."""
    try:
        return verify(folder, kind=kind, key=key)
    except ManifestError:
        return None


def sweep(work: Path, *, but: Collection[Path] = ()) -> None:
    """Remove leftovers of interrupted attempts from the volume."""
    for pattern in (".writing-*", ".old-*"):
        for leftover in work.glob(pattern):
            if leftover not in but:
                shutil.rmtree(leftover, ignore_errors=True)


def as_json(manifest: Manifest) -> dict[str, Any]:
    """Return the content of ``manifest.json``."""
    return {
        "kind": manifest.kind,
        "key": manifest.key,
        "digest": manifest.digest,
        "files": [vars(entry) for entry in manifest.files],
        "facts": manifest.facts,
    }
