"""Repositories of a hub, pinned to a commit and downloaded with the session of its client.

``HF_ENDPOINT`` selects a mirror or an air-gapped hub. A repository is read with the token given for
it, or with none; the client's cached token is never used.

``snapshot_download`` of the client is not used: version 1.33 accepted a file with a damaged byte,
and after an interruption at 20 of 30 MB, the next process began at 0. For a killed process, the
partial file stays on the volume (huggingface_hub issue 4196).

Files are requested with plain HTTPS, never with the Xet protocol, so that proxies, CA certificates
and the check of connections apply to each byte.

The client sends its requests with httpx (1.x) or httpx2 (2.x). Neither is imported here: responses
have the same attributes in both, and the client exports the base class of their errors.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    build_hf_headers,
    close_session,
    get_session,
    hf_raise_for_status,
    http_stream_backoff,
)

from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.errors import AccessDenied, InvalidSpec, TrainerError, Transient
from finetune_trainer.sources import egress, trust
from finetune_trainer.sources.origin import origin
from finetune_trainer.sources.remote import RemoteStore
from finetune_trainer.sources.repository import RemoteFile, Repository, brief, missing, repo_type
from finetune_trainer.sources.transfer import BrokenTransfer, is_retryable, streamed

TIMEOUT_SECONDS = 30.0
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")


class Hub(RemoteStore):
    """Reads one repository. ``token`` is None for a public one."""

    def __init__(
        self, *, kind: Kind, source: str, revision: str, token: str | None, ca_file: Path | None
    ) -> None:
        """``source`` is ``hf://org/name``; ``revision`` is a branch, tag or commit.

        ``ca_file`` has certificates to trust. All repositories are on one hub, and the client has
        one session for them, so the process trusts them from now on. Raise InvalidSpec if it has
        none.
        """
        super().__init__(
            kind=kind,
            name=source.removeprefix("hf://"),
            remediation="choose another repository, or let an administrator check the chart's "
            "hub.endpoint",
        )
        self.revision = revision
        self._token: str | Literal[False] = token or False
        if ca_file is not None:
            field = f"{kind}.caConfigMapRef"
            trust.add(trust.read(ca_file, field=field), field=field)
            close_session()

    def pin(self) -> Repository:
        """Return the repository at the commit to which the revision resolves now."""
        with self._named(), self._session():
            info = HfApi().repo_info(
                self.name,
                repo_type=repo_type(self.kind),
                revision=self.revision,
                files_metadata=True,
                token=self._token,
                timeout=TIMEOUT_SECONDS,
            )
        if not info.sha:
            raise Transient(
                f"the hub returned no commit for {self.what}: the next attempt asks the hub again"
            )
        if not _COMMIT.fullmatch(str(info.sha)):
            # Names of folders contain the commit.
            raise InvalidSpec(
                f"the hub returned an invalid commit for {self.what} "
                f"({printable(str(info.sha)[:64])}): choose another repository, or let an "
                "administrator check the chart's hub.endpoint"
            )
        files = {
            sibling.rfilename: RemoteFile(
                name=sibling.rfilename,
                size=sibling.size or 0,
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
            )
            for sibling in info.siblings or ()
        }
        return Repository(
            kind=self.kind, name=self.name, commit=info.sha, files=files, license=_license(info)
        )

    def _session(self) -> AbstractContextManager[None]:
        _announce_requests()
        return nullcontext()

    @contextmanager
    def _opened(
        self, session: None, repository: Repository, name: str, offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        url = hf_hub_url(
            self.name, name, repo_type=repo_type(self.kind), revision=repository.commit
        )
        # Without compression: a decompressed answer would have another size and digest.
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            with http_stream_backoff(
                "GET",
                url,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                retry_on_exceptions=(),
                retry_on_status_codes=(408, 429),
            ) as answer:
                hf_raise_for_status(answer)
                yield streamed(answer)
        except HfHubHTTPError as error:
            if reason := _retryable(error.response, url):
                raise BrokenTransfer(reason) from error
            raise
        except HTTPError as error:
            raise self._untrusted(error, f"the hub {constants.ENDPOINT}") or BrokenTransfer(
                brief(error)
            ) from error

    def _meaning(self, error: Exception) -> TrainerError | None:
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error)
        if isinstance(error, (OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError)):
            return self._untrusted(error, f"the hub {constants.ENDPOINT}") or Transient(
                f"the hub is unreachable for {self.what} ({brief(error)}): the next attempt "
                "retries the download. If the error persists, check the network policy and the "
                "chart's hub.endpoint"
            )
        return None

    def _refusal(self, error: HfHubHTTPError) -> TrainerError:
        """Return the error that a hub error means. The hub answers 401 for a missing repository."""
        what, secret = self.what, f"{self.kind}.tokenSecretRef"
        if isinstance(error, GatedRepoError):
            remediation = (
                f"the account of the token in {secret} has no access. Accept the conditions on the "
                "repository's page with this account"
                if self._token
                else f"accept the conditions on the repository's page, and set {secret} to a "
                "Secret with a token"
            )
            return AccessDenied(f"{what} is gated: {remediation}")
        if isinstance(error, DisabledRepoError):
            return AccessDenied(f"{what} is disabled on the hub: choose another repository")
        if isinstance(error, RevisionNotFoundError):
            return missing(self.kind)(
                f"{what} has no revision {self.revision!r}: correct {self.kind}.revision"
            )
        if isinstance(error, RemoteEntryNotFoundError):
            return missing(self.kind)(
                f"a file of {what} is missing on the hub ({brief(error)}): correct "
                f"{self.kind}.revision"
            )
        if isinstance(error, RepositoryNotFoundError):
            also = (
                f"or check that the token in {secret} has access"
                if self._token
                else f"or, if it is private, set {secret} to a Secret with a token"
            )
            return missing(self.kind)(
                f"{what} does not exist on the hub: correct {self.kind}.source, {also}"
            )
        status = error.response.status_code
        if status in (401, 403):
            remediation = (
                f"the token in {secret} is invalid, has expired or lacks read access: replace the "
                "token"
                if self._token
                else f"set {secret} to a Secret with a token"
            )
            return AccessDenied(f"the hub denies access to {what} (HTTP {status}): {remediation}")
        if status == 404:
            return missing(self.kind)(
                f"{what} does not exist on the hub: correct {self.kind}.source"
            )
        return Transient(
            f"the hub returned an error for {what} ({brief(error)}): the next attempt retries the "
            "download"
        )


def _license(info: Any) -> str | None:
    """Return the licence in the metadata of a repository, None if there is no valid one."""
    license_id = getattr(getattr(info, "card_data", None), "license", None)
    if isinstance(license_id, list) and license_id:
        license_id = license_id[0]
    return license_id if isinstance(license_id, str) and _LICENSE.fullmatch(license_id) else None


def _announce_requests() -> None:
    """Announce each request of the client's session, redirects included."""
    session = get_session()
    hooks = session.event_hooks
    if _announce not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _announce]}


def _announce(request: Any) -> None:
    egress.announce(str(request.url), chosen_by_job=False)


def _retryable(answer: Any, url: str) -> str | None:
    """Return the reason why a failed download may succeed if retried, or None.

    ``url`` is the file's URL on the hub. If the hub redirected to a storage server, a refusal
    concerns a signed URL that expires, and a retry gets a new one.
    """
    reason = f"HTTP {answer.status_code} from {urlsplit(str(answer.url)).netloc}"
    if origin(str(answer.url)) != origin(url) and not answer.headers.get("X-Error-Code"):
        return (
            f"{reason}. The hub redirects to this host, so the token is not the cause. If the "
            "error persists, check the proxies and the clock of the node"
        )
    return reason if is_retryable(answer.status_code) else None
