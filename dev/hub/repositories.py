"""Repositories in folders: ``<root>/{models,datasets}/<organisation>/<name>/…``.

A repository's commit id is derived from its files' content, so it changes exactly when they do.
``.hub.json`` beside the files may say ``{"gated": true, "tokens": ["…"]}``; hidden files are not
part of a repository.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

# As on a real hub, large files are addressed by sha256, small ones like git does.
LARGE = 10 * 1024 * 1024
CHUNK = 1024 * 1024


class HubError(Exception):
    """An answer other than success, with the header that clients read the reason from."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """One file of a repository; ``oid`` is its git blob id."""

    path: str
    location: Path
    size: int
    oid: str
    sha256: str

    @property
    def large(self) -> bool:
        """Whether clients are told the sha256 instead of the blob id."""
        return self.size >= LARGE

    @property
    def etag(self) -> str:
        """The identity that clients cache by."""
        return self.sha256 if self.large else self.oid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository at its one commit."""

    kind: str
    name: str
    commit: str
    files: tuple[File, ...]
    gated: bool
    tokens: frozenset[str]

    def file(self, path: str) -> File:
        """The file at that path, or EntryNotFound."""
        for file in self.files:
            if file.path == path:
                return file
        raise HubError(404, "EntryNotFound", f"{self.name} has no file {path}")

    def check_revision(self, revision: str) -> None:
        """``main`` and the commit exist, nothing else."""
        if revision not in ("main", "refs/heads/main", self.commit):
            raise HubError(404, "RevisionNotFound", f"{self.name} has no revision {revision}")

    def check_access(self, token: str | None) -> None:
        """A gated repository opens for its tokens; 401 without one, 403 with a wrong one."""
        if self.gated and token not in self.tokens:
            status = 401 if token is None else 403
            raise HubError(status, "GatedRepo", f"Access to {self.name} is restricted.")


class Store:
    """Reads repositories; digests are computed once for each state of a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[tuple[Path, int, int], tuple[str, str]] = {}

    def repository(self, kind: str, name: str) -> Repository:
        """``kind`` is ``models`` or ``datasets``; RepoNotFound if there is none."""
        base = self.root / kind
        folder = base / name
        valid = name.count("/") == 1 and not any(part[:1] in ("", ".") for part in name.split("/"))
        if not valid or not folder.is_dir():
            raise HubError(404, "RepoNotFound", f"There is no {kind[:-1]} {name}.")
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
        key = (location, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            blob = hashlib.sha1(f"blob {stat.st_size}\0".encode())
            content = hashlib.sha256()
            with location.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    blob.update(chunk)
                    content.update(chunk)
            self._digests[key] = (blob.hexdigest(), content.hexdigest())
        return self._digests[key]
