"""A source that is read over the network: what its kinds have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.errors import InvalidSpec, TrainerError
from finetune_trainer.sources.repository import (
    OnBytes,
    Repository,
    brief,
    raise_denied,
    readable_answers,
    reporting_bytes,
)
from finetune_trainer.sources.transfer import fetch


class RemoteStore(ABC):
    """Downloads the files of one repository, and resumes after interruptions.

    A subclass pins the repository, opens its files and gives the errors of its client a meaning.
    """

    def __init__(self, *, kind: Kind, name: str, remediation: str) -> None:
        """``remediation`` ends the error message for an answer that cannot be read."""
        self.kind: Kind = kind
        self.name = name
        self.what = f"{kind} {name}"
        """The repository, as messages name it."""
        self._remediation = remediation

    @abstractmethod
    def pin(self) -> Repository:
        """Return the repository as it is now."""

    def local_path(self, name: str) -> Path | None:
        """Return None: no file is local."""
        return None

    def download(
        self,
        repository: Repository,
        names: Iterable[str],
        into: Path,
        *,
        on_bytes: OnBytes = lambda count: None,
    ) -> dict[str, str]:
        """Download files into a folder; return their SHA-256 by name.

        A partial download in the same folder is resumed. ``on_bytes`` gets the bytes below the
        folder about once a second.
        """
        with self._named(), self._session() as session, reporting_bytes(into, on_bytes):
            return {
                name: fetch(
                    repository.files[name],
                    partial(self._opened, session, repository, name),
                    into,
                    what=self.what,
                )
                for name in names
            }

    @abstractmethod
    def _session(self) -> AbstractContextManager[Any]:
        """Open what all downloads share."""

    @abstractmethod
    def _opened(
        self, session: Any, repository: Repository, name: str, offset: int
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """Open a file at an offset (``transfer.Read``)."""

    @abstractmethod
    def _meaning(self, error: Exception) -> TrainerError | None:
        """Return the error of the job that an error of the client means; None if it is a defect."""

    def _untrusted(self, error: Exception, server: str) -> InvalidSpec | None:
        """Return the error if a connection failed because of the certificate of ``server``."""
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            return None
        return InvalidSpec(
            f"the certificate of {server} is not trusted ({brief(error)}): set "
            f"{self.kind}.caConfigMapRef to a ConfigMap with its certificate authority, or let an "
            "administrator set the chart value caCertificates"
        )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Translate errors of the client into errors of the job."""
        try:
            with readable_answers(self.what, self._remediation):
                yield
        except TrainerError as error:
            raise_denied(error, self.what)
            raise
        except Exception as error:
            raise_denied(error, self.what)
            meaning = self._meaning(error)
            if meaning is None:
                raise
            raise meaning from error
