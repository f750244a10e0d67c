"""The interface of sources: a repository at one state, and the download of its files."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from finetune_api.safety.redaction import mask, one_line
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.training.start_from import START_FROM
from finetune_trainer.errors import (
    DatasetNotFound,
    EgressDenied,
    InvalidSpec,
    ModelNotFound,
    NotFound,
)
from finetune_trainer.runtime import daemon_thread

OnBytes = Callable[[int], None]
POLL_SECONDS = 1.0
_MODELS = ("model", START_FROM)
"""Kinds of sources that are a model or an adapter."""
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository: size in bytes, and SHA-256 if the source states it."""

    name: str
    size: int
    sha256: str | None

    def __post_init__(self) -> None:
        """Raise InvalidSpec for a size that the source cannot mean."""
        if type(self.size) is not int or self.size < 0:
            raise InvalidSpec(
                f"the source states an invalid size for the file {one_line(repr(self.name))}: "
                f"{one_line(repr(self.size), 40)}. Correct the size in the source to a whole "
                "number of bytes, at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at one commit. Sources without commits use the digest of their file list."""

    kind: Kind
    name: str
    commit: str
    files: dict[str, RemoteFile]
    license: str | None = None
    """Identifier of the licence that the repository states."""

    def size_of(self, names: Iterable[str]) -> int:
        """Return the bytes of the named files."""
        return sum(self.files[name].size for name in names)


class Store(Protocol):
    """Reads one repository; messages call it ``name``."""

    name: str

    def pin(self) -> Repository:
        """Return the repository as it is now."""
        ...

    def download(
        self, repository: Repository, names: Iterable[str], into: Path, *, on_bytes: OnBytes
    ) -> dict[str, str]:
        """Download files into a folder; return their SHA-256 by name.

        A partial download in the same folder is resumed. ``on_bytes`` gets the bytes below the
        folder about once a second.
        """
        ...

    def local_path(self, name: str) -> Path | None:
        """Return the path of a file if it is mounted, or None."""
        ...


@runtime_checkable
class Attested(Protocol):
    """A store that keeps signed statements about a repository beside its files."""

    def statements(self, repository: Repository) -> list[bytes]:
        """Return the statements about the repository as a whole. Nothing about them is checked."""
        ...


def repo_type(kind: Kind) -> Literal["model", "dataset"]:
    """Return the hub's repository type for a kind of source."""
    return "model" if kind in _MODELS else "dataset"


def missing(kind: Kind) -> type[NotFound]:
    """Return the class of the error for a missing model or dataset."""
    return ModelNotFound if kind in _MODELS else DatasetNotFound


def denial(error: BaseException) -> EgressDenied | None:
    """Return the denied connection that caused an error of a library, or None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EgressDenied):
        cause = cause.__cause__ or cause.__context__
    return cause


def raise_denied(error: BaseException, what: str) -> None:
    """Raise EgressDenied about a source if a denied connection caused an error."""
    if (cause := denial(error)) is not None:
        raise EgressDenied(f"{what} is not reachable: {cause}") from None


@contextmanager
def readable_answers(what: str, remediation: str) -> Iterator[None]:
    """Raise InvalidSpec for an answer with values that the client of a source cannot read.

    Clients parse answers without checks of their own: numbers, dates, host names, nesting.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError):
            # A certificate that is not trusted is both an OSError and a ValueError.
            raise
        nested = isinstance(error, RecursionError)
        problem = "it is nested too deeply" if nested else brief(error)
        raise InvalidSpec(
            f"the server returned an invalid answer for {what} ({problem}): {remediation}"
        ) from None


def digest_of(lines: Iterable[str]) -> str:
    """Return the SHA-256, in hex, of the lines of a file list."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def reporting_bytes(folder: Path, on_bytes: OnBytes) -> AbstractContextManager[None]:
    """Report the bytes below a folder about once a second, and once more at the end of a block."""

    def report() -> None:
        on_bytes(bytes_below(folder))

    return daemon_thread.repeated(report, seconds=POLL_SECONDS)


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder, which may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def brief(error: BaseException) -> str:
    """Return an error as one line, without query strings of URLs, which may be signatures."""
    text = _QUERY.sub(r"\1", mask(str(error)))
    return one_line(f"{type(error).__name__}: {text}")
