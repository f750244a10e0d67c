"""The hub, through its own client: what is there, pinned to a commit, and the bytes of it.

``HF_ENDPOINT`` is honoured, so a mirror or an air-gapped hub works the same way. No token is ever
taken from the environment's cache: a repository is read with the token given for it, or with none.

The client's session sends the requests, but its ``hf_hub_download`` is not used: a process that was
killed could not go on with what an earlier one had brought, which would stay on the volume beside
it (huggingface_hub issue 4196).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.errors import AccessDenied, TrainerError, Transient
from finetune_trainer.sources.repository import (
    OnBytes,
    RemoteFile,
    Repository,
    brief,
    missing,
    repo_type,
    reporting_bytes,
)
from finetune_trainer.sources.transfer import BrokenTransfer, fetch, is_retryable, streamed

TIMEOUT = httpx.Timeout(30.0)


class Hub:
    """Reads one repository. ``token`` is None for a public one."""

    def __init__(self, *, kind: Kind, source: str, revision: str, token: str | None) -> None:
        """``source`` is ``hf://org/name``; ``revision`` a branch, tag or commit."""
        self.kind: Kind = kind
        self.name = source.removeprefix("hf://")
        self.revision = revision
        self._token: str | Literal[False] = token or False

    def pin(self) -> Repository:
        """Look the repository up and return it at the commit that the revision means now."""
        with self._named():
            info = HfApi().repo_info(
                self.name,
                repo_type=repo_type(self.kind),
                revision=self.revision,
                files_metadata=True,
                token=self._token,
                timeout=30,
            )
        if not info.sha:
            raise Transient(f"the hub gave no commit for {self._what()}: try again later")
        files = {
            sibling.rfilename: RemoteFile(
                name=sibling.rfilename,
                size=sibling.size or 0,
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
            )
            for sibling in info.siblings or ()
        }
        return Repository(kind=self.kind, name=self.name, commit=info.sha, files=files)

    def download(
        self,
        repository: Repository,
        names: Iterable[str],
        into: Path,
        *,
        on_bytes: OnBytes = lambda count: None,
    ) -> dict[str, str]:
        """Bring files into a folder; return their SHA-256 by name.

        A broken-off download in the same folder is gone on with. ``on_bytes`` gets the bytes below
        the folder about once a second.
        """
        digests = {}
        with self._named(), reporting_bytes(into, on_bytes):
            for name in names:

                @contextmanager
                def read(offset: int, name: str = name) -> Iterator[tuple[int, Iterator[bytes]]]:
                    with self._opened(repository.commit, name, offset) as answer:
                        yield streamed(answer)

                digests[name] = fetch(repository.files[name], read, into, what=self._what())
        return digests

    @contextmanager
    def _opened(self, commit: str, name: str, offset: int) -> Iterator[httpx.Response]:
        url = hf_hub_url(self.name, name, repo_type=repo_type(self.kind), revision=commit)
        # The bytes as they are: an unpacked answer would have another size and another digest.
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            with http_stream_backoff(
                "GET",
                url,
                headers=headers,
                timeout=TIMEOUT,
                retry_on_exceptions=(),
                retry_on_status_codes=(408, 429),
            ) as answer:
                hf_raise_for_status(answer)
                yield answer
        except httpx.TransportError as error:
            raise BrokenTransfer(brief(error)) from error
        except HfHubHTTPError as error:
            if said := _broken(error.response, url):
                raise BrokenTransfer(said) from error
            raise

    def _what(self) -> str:
        return f"{self.kind} {self.name}"

    def local_path(self, name: str) -> Path | None:
        """Return None: what the hub has is elsewhere."""
        return None

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say what the hub's refusal means for this job."""
        try:
            yield
        except TrainerError:
            raise
        except HfHubHTTPError as error:
            raise self._meaning(error) from error
        except (OfflineModeIsEnabled, httpx.HTTPError, ConnectionError, TimeoutError) as error:
            raise Transient(
                f"the hub cannot be reached for {self._what()} ({brief(error)}): it is tried "
                "again; check the network policy and the chart's hub.endpoint if it stays so"
            ) from error

    def _meaning(self, error: HfHubHTTPError) -> TrainerError:
        """Name the outcome of a hub error. The hub answers 401, not 404, for what is missing."""
        what, secret = self._what(), f"{self.kind}.tokenSecretRef"
        if isinstance(error, GatedRepoError):
            remediation = (
                f"the account of the token in {secret} has not been granted access: accept the "
                "conditions on the repository's page with that account"
                if self._token
                else f"accept its conditions on the hub and name a Secret with a token in {secret}"
            )
            return AccessDenied(f"{what} is gated: {remediation}")
        if isinstance(error, DisabledRepoError):
            return AccessDenied(f"{what} is disabled on the hub: choose another repository")
        if isinstance(error, RevisionNotFoundError):
            return missing(self.kind)(
                f"{what} has no revision {self.revision!r}: correct {self.kind}.revision"
            )
        if isinstance(error, RemoteEntryNotFoundError):
            return missing(self.kind)(f"{what} lost a file while it was read: {brief(error)}")
        if isinstance(error, RepositoryNotFoundError):
            also = (
                f"or the token in {secret} may not see it"
                if self._token
                else f"or, if it is private, name a Secret with a token in {secret}"
            )
            return missing(self.kind)(
                f"{what} does not exist on the hub: correct {self.kind}.source, {also}"
            )
        status = error.response.status_code
        if status in (401, 403):
            remediation = (
                f"the token in {secret} is invalid, expired or lacks the right to read it: "
                "replace it"
                if self._token
                else f"name a Secret with a token in {secret}"
            )
            return AccessDenied(f"the hub refuses {what} (HTTP {status}): {remediation}")
        if status == 404:
            return missing(self.kind)(
                f"{what} does not exist on the hub: correct {self.kind}.source"
            )
        return Transient(f"the hub failed on {what} ({brief(error)}): it is tried again")


def _broken(answer: httpx.Response, asked: str) -> str | None:
    """Say what of a refusal is no word of the hub's on the repository, so that a try may help.

    asked: the hub's address of the file. Where the hub sends on to, a refusal is about an address
    that was signed a moment ago, and that the next try has anew.
    """
    said = f"HTTP {answer.status_code} from {answer.url.netloc.decode()}"
    if answer.url.netloc != httpx.URL(asked).netloc and not answer.headers.get("X-Error-Code"):
        return (
            f"{said}, where the hub sends for it: no matter of the token; check proxies and the "
            "node's clock if it stays so"
        )
    return said if is_retryable(answer.status_code) else None
