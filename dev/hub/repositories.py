"""Repositories in folders: ``<root>/{models,datasets}/<organization>/<name>/…``.

The commit ID of a repository is a hash of its files, so it changes exactly when they change. An
optional ``.hub.json`` contains ``{"gated": true, "tokens": ["…"]}``; hidden files are not part of
the repository.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

# As on a real hub, the ID of a large file is its SHA-256, that of a small file its git blob ID.
LARGE = 10 * 1024 * 1024
CHUNK = 1024 * 1024


class HubError(Exception):
    """An error response; ``code`` is the reason, which is sent in a header."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """One file of a repository; ``oid`` is its git blob ID."""

    path: str
    location: Path
    size: int
    oid: str
    sha256: str

    @property
    def large(self) -> bool:
        """Whether the SHA-256 identifies the file, instead of the blob ID."""
        return self.size >= LARGE

    @property
    def etag(self) -> str:
        """The identity of the content in client caches."""
        return self.sha256 if self.large else self.oid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository at its only commit."""

    kind: str
    name: str
    commit: str
    files: tuple[File, ...]
    gated: bool
    tokens: frozenset[str]

    def file(self, path: str) -> File:
        """Return the file at a path. Raises HubError (EntryNotFound)."""
        for file in self.files:
            if file.path == path:
                return file
        raise HubError(404, "EntryNotFound", f"{self.name} has no file {path}")

    def check_revision(self, revision: str) -> None:
        """Accept only ``main`` and the commit. Raises HubError (RevisionNotFound)."""
        if revision not in ("main", "refs/heads/main", self.commit):
            raise HubError(404, "RevisionNotFound", f"{self.name} has no revision {revision}")

    def check_access(self, token: str | None) -> None:
        """Require a valid token if the repository is gated. Raises HubError (401 or 403)."""
        if self.gated and token not in self.tokens:
            status = 401 if token is None else 403
            raise HubError(status, "GatedRepo", f"Access to {self.name} is restricted.")


class Store:
    """Reads repositories; each version of a file is hashed once, whatever its names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[tuple[int, int, int, int], tuple[str, str]] = {}

    def hash_all(self) -> None:
        """Hash the present files. On a busy node this takes longer than a client waits."""
        for kind in ("models", "datasets"):
            for folder in sorted((self.root / kind).glob("*/*")):
                self._files(folder)

    def repository(self, kind: str, name: str) -> Repository:
        """Return a repository; ``kind`` is ``models`` or ``datasets``. Raises HubError."""
        base = self.root / kind
        folder = base / name
        valid = name.count("/") == 1 and not any(part[:1] in ("", ".") for part in name.split("/"))
        if not valid or not folder.is_dir():
            raise HubError(404, "RepoNotFound", f"{kind[:-1].capitalize()} {name} does not exist.")
        settings_file = folder / ".hub.json"
        settings = json.loads(settings_file.read_text()) if settings_file.exists() else {}
        files = tuple(self._files(folder))
        digest = hashlib.sha1(f"{kind}/{name}\n".encode())
        for file in files:
            digest.update(f"{file.sha256} {file.path}\n".encode())
        return Repository(
            kind=kind,
            name=name,
            commit=digest.hexdigest(),
            files=files,
            gated=bool(settings.get("gated", False)),
            tokens=frozenset(settings.get("tokens", ())),
        )

    def _files(self, folder: Path) -> list[File]:
        files = []
        for location in sorted(folder.rglob("*")):
            relative = location.relative_to(folder)
            if not location.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            size = location.stat().st_size
            oid, sha256 = self._digest(location)
            files.append(
                File(
                    path=relative.as_posix(),
                    location=location,
                    size=size,
                    oid=oid,
                    sha256=sha256,
                )
            )
        return files

    def _digest(self, location: Path) -> tuple[str, str]:
        stat = location.stat()
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            blob = hashlib.sha1(f"blob {stat.st_size}\0".encode())
            content = hashlib.sha256()
            with location.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    blob.update(chunk)
                    content.update(chunk)
            self._digests[key] = (blob.hexdigest(), content.hexdigest())
        return self._digests[key]
