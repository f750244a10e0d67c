"""Mounted files: a folder of a PersistentVolumeClaim, or a dataset in a ConfigMap.

A folder has no commits. Its state is pinned by the names, sizes and modification times of its
files; the manifest then records the SHA-256 of every file.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune_api.safety.printable import escaped
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.errors import AccessDenied, InvalidSpec, Transient
from finetune_trainer.sources.repository import (
    OnBytes,
    RemoteFile,
    Repository,
    digest_of,
    missing,
    reporting_bytes,
)
from finetune_trainer.sources.transfer import digest_while_copying
from finetune_trainer.volume.files import sha256_of
from finetune_trainer.volume_layout import partial_path


class Folder:
    """Reads one folder or one file below ``root``, and nothing outside ``root``."""

    def __init__(self, *, kind: Kind, name: str, root: Path, path: str, remediation: str) -> None:
        """``remediation`` ends the error message for a missing ``path``."""
        self.name = name
        self._kind: Kind = kind
        self._root = root
        self._top = root / path if path else root
        self._remediation = remediation

    def pin(self) -> Repository:
        """Return the files as they are now."""
        try:
            files = {name: path.stat() for name, path in sorted(self._walk())}
        except PermissionError as error:
            raise AccessDenied(
                f"{self._kind} {self.name} is not readable ({error}): make it readable for uid "
                f"{os.getuid()} or gid {os.getgid()}"
            ) from error
        except (RecursionError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                raise
            raise InvalidSpec(
                f"the folders of {self._kind} {self.name} are nested too deeply: copy the files "
                "into fewer levels of folders"
            ) from error
        if not files:
            raise missing(self._kind)(
                f"{self._kind} {self.name} contains no file: {self._remediation}"
            )
        lines = (f"{status.st_mtime_ns} {status.st_size}  {name}" for name, status in files.items())
        return Repository(
            kind=self._kind,
            name=self.name,
            commit=digest_of(lines),
            files={
                name: RemoteFile(name=name, size=status.st_size, sha256=None)
                for name, status in files.items()
            },
        )

    def _walk(self) -> Iterator[tuple[str, Path]]:
        top = self._inside(self._top)
        if not top.exists():
            raise missing(self._kind)(
                f"{self._kind} {self.name} does not exist: {self._remediation}"
            )
        if top.is_file():
            yield self._top.name, top
            return
        for folder, _, names in os.walk(top, onerror=_raise):
            for name in names:
                path = self._inside(Path(folder) / name)
                if path.is_file():
                    yield self._text((Path(folder) / name).relative_to(top).as_posix()), path

    def _inside(self, path: Path) -> Path:
        """Resolve symbolic links, which hub caches use. Raises InvalidSpec for one out of root."""
        try:
            real = path.resolve()
        except (RuntimeError, OSError) as error:
            # Python before 3.13 raises RuntimeError for a link that leads to itself.
            if isinstance(error, OSError) and error.errno != errno.ELOOP:
                raise
            raise InvalidSpec(
                f"{path.relative_to(self._root)} of {self._kind} {self.name} is a link that leads "
                "to itself: remove the link"
            ) from error
        if not real.is_relative_to(self._root.resolve()):
            raise InvalidSpec(
                f"{path.relative_to(self._root)} of {self._kind} {self.name} is a link to a path "
                "outside the folder: replace the link with the file"
            )
        return real

    def _text(self, name: str) -> str:
        """Return a file name. Raises InvalidSpec for bytes that no manifest can express."""
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = escaped(os.fsencode(name).decode(errors="backslashreplace"))
            raise InvalidSpec(
                f"the file name {shown} of {self._kind} {self.name} is not valid UTF-8: rename the "
                "file"
            ) from error
        return name

    def local_path(self, name: str) -> Path | None:
        """Return the path of a file."""
        top = self._inside(self._top)
        return top if top.is_file() else self._inside(top / name)

    def download(
        self,
        repository: Repository,
        names: Iterable[str],
        into: Path,
        *,
        on_bytes: OnBytes = lambda count: None,
    ) -> dict[str, str]:
        """Copy files into a folder; return their SHA-256 by name."""
        digests = {}
        with reporting_bytes(into, on_bytes):
            for name in names:
                source, target = self.local_path(name), into / name
                assert source is not None
                if target.is_file() and target.stat().st_size == repository.files[name].size:
                    digests[name] = sha256_of(target)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                part = partial_path(target)
                digests[name] = digest_while_copying(source, part)
                if part.stat().st_size != repository.files[name].size:
                    raise Transient(
                        f"{name} of {self._kind} {self.name} changed while it was copied: the "
                        "next attempt copies it again"
                    )
                part.rename(target)
        return digests


def _raise(error: OSError) -> None:
    raise error
