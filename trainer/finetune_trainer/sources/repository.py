"""What every source gives: a list of files at one fixed state, and the bytes of them."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.errors import DatasetNotFound, ModelNotFound, NotFound

OnBytes = Callable[[int], None]
POLL_SECONDS = 1.0
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository: bytes, and SHA-256 where its source knows it."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at one commit; what has no commits has the digest of its list of files."""

    kind: Kind
    name: str
    commit: str
    files: dict[str, RemoteFile]

    def size_of(self, names: Iterable[str]) -> int:
        """Bytes of the named files."""
        return sum(self.files[name].size for name in names)


class Store(Protocol):
    """Reads one repository. ``name`` is what messages call it."""

    name: str

    def pin(self) -> Repository:
        """Look the repository up and return it as it is now."""
        ...

    def download(
        self, repository: Repository, names: Iterable[str], into: Path, *, on_bytes: OnBytes
    ) -> dict[str, str]:
        """Bring files into a folder; return their SHA-256 by name.

        A broken-off download in the same folder is gone on with. ``on_bytes`` gets the bytes below
        the folder about once a second.
        """
        ...

    def local_path(self, name: str) -> Path | None:
        """Return where a file lies on this machine already, or None."""
        ...


def repo_type(kind: Kind) -> Literal["model", "dataset"]:
    """Return what the hub calls a repository of this kind."""
    return "model" if kind == "model" else "dataset"


def missing(kind: Kind) -> type[NotFound]:
    """Return the error for a model or dataset that does not exist."""
    return ModelNotFound if kind == "model" else DatasetNotFound


def digest_of(lines: Iterable[str]) -> str:
    """Return one digest, in hex, for the lines of a list of files."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@contextmanager
def reporting_bytes(folder: Path, on_bytes: OnBytes) -> Iterator[None]:
    """Report the bytes below a folder about once a second, and once more at the end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            on_bytes(bytes_below(folder))

    thread = threading.Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        on_bytes(bytes_below(folder))


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder that may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def brief(error: BaseException) -> str:
    """Return an error in one line, with no query of an address: that may be a signature."""
    text = _QUERY.sub(r"\1", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:200]
