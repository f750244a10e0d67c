"""Files on a web server, pinned by SHA-256: one file, or the files of a SHA256SUMS list.

The list is the output of ``sha256sum``; its own digest pins all files in it. Nothing is downloaded
without TLS, redirects included.
"""

import hashlib
import re
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

import httpx

from finetune_api.v1alpha1.sources import LIST_OF_SUMS, Kind
from finetune_trainer.errors import AccessDenied, InvalidSpec, TrainerError, Transient
from finetune_trainer.sources import egress
from finetune_trainer.sources.remote import RemoteStore
from finetune_trainer.sources.repository import RemoteFile, Repository, brief, missing
from finetune_trainer.sources.transfer import (
    CONTENT_RANGE,
    BrokenTransfer,
    is_retryable,
    streamed,
)

LONGEST_LIST = 1 << 20
TIMEOUT = httpx.Timeout(60.0, connect=30.0)
_LINE = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?:\./)?(?P<name>[^/\0].*)")


class Https(RemoteStore):
    """Reads one URL, whose file must have the SHA-256 ``sha256``."""

    def __init__(
        self, *, kind: Kind, url: str, sha256: str, token: str | None, ca_file: Path | None
    ) -> None:
        """``ca_file`` has certificates to trust in addition to those of the system."""
        super().__init__(kind=kind, name=url, remediation=f"correct {kind}.source")
        self._sha256 = sha256
        self._token = token
        self._ca_file = ca_file

    def pin(self) -> Repository:
        """Return the file, or the files of the list, with their sizes."""
        own = unquote(self.name.rsplit("/", 1)[-1])
        with self._named(), self._session() as client:
            sums = self._list(client) if own == LIST_OF_SUMS else {own: self._sha256}
            files = {
                name: RemoteFile(name=name, size=self._size(client, name), sha256=digest)
                for name, digest in sums.items()
            }
        return Repository(kind=self.kind, name=self.name, commit=self._sha256, files=files)

    def _list(self, client: httpx.Client) -> dict[str, str]:
        with client.stream("GET", self.name) as answer:
            self._check(answer, self.name)
            text = b""
            for chunk in answer.iter_raw():
                text += chunk
                if len(text) > LONGEST_LIST:
                    raise InvalidSpec(
                        f"{self.name} is longer than 1 MiB, so it is not a valid {LIST_OF_SUMS} "
                        "list: create it with sha256sum"
                    )
        digest = hashlib.sha256(text).hexdigest()
        if digest != self._sha256:
            raise InvalidSpec(
                f"{self.name} has the SHA-256 {digest}, but {self.kind}.sha256 is {self._sha256}: "
                f"if the file was changed on purpose, set {self.kind}.sha256 to the new digest"
            )
        sums = {}
        for line in text.decode(errors="replace").splitlines():
            entry = _LINE.fullmatch(line)
            if entry is None or ".." in entry["name"].split("/"):
                raise InvalidSpec(
                    f"{self.name} has the invalid line {line[:100]!r}: each line must be a SHA-256 "
                    "digest and a relative path. To create the list, run sha256sum in the folder "
                    "of the files"
                )
            sums[entry["name"]] = entry["sum"]
        return sums

    def _size(self, client: httpx.Client, name: str) -> int:
        """Return the size of a file. Requests its first byte, since some servers refuse HEAD."""
        with self._requested(client, name, "bytes=0-0") as answer:
            self._check(answer, self._address(name))
            if answer.status_code == 416:
                return 0
            content_range = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            size = content_range[2] if content_range else answer.headers.get("Content-Length")
            if size is None:
                raise InvalidSpec(
                    f"the server sends {self._address(name)} without a size, so a truncated "
                    "download cannot be detected: serve the file as a static file"
                )
            return int(size)

    @contextmanager
    def _opened(
        self, session: httpx.Client, repository: Repository, name: str, offset: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        try:
            with self._requested(session, name, f"bytes={offset}-" if offset else None) as answer:
                if is_retryable(answer.status_code):
                    raise BrokenTransfer(f"the server returned HTTP {answer.status_code}")
                self._check(answer, self._address(name))
                yield streamed(answer)
        except httpx.TransportError as error:
            raise self._untrusted(error, self.name) or BrokenTransfer(brief(error)) from error

    def _requested(
        self, client: httpx.Client, name: str, part: str | None
    ) -> AbstractContextManager[httpx.Response]:
        headers = {} if part is None else {"Range": part}
        return client.stream("GET", self._address(name), headers=headers)

    def _address(self, name: str) -> str:
        return urljoin(self.name, quote(name))

    def _session(self) -> httpx.Client:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            try:
                context.load_verify_locations(self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidSpec(
                    f"{self.kind}.caConfigMapRef contains no PEM certificates ({error}): correct "
                    "the ConfigMap"
                ) from error
        # Without compression: a decompressed answer would have another size and digest.
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return httpx.Client(
            verify=context,
            headers=headers,
            timeout=TIMEOUT,
            follow_redirects=True,
            event_hooks={"request": [self._check_request]},
        )

    def _check_request(self, request: httpx.Request) -> None:
        """Raise an error before a redirect to another scheme or a denied host is followed."""
        egress.announce(str(request.url), chosen_by_job=True)
        if request.url.scheme != "https":
            where = request.url.copy_with(query=None)
            raise InvalidSpec(
                f"{self.what} is redirected to {where}, but only https:// is "
                f"allowed: correct {self.kind}.source"
            )

    def _check(self, answer: httpx.Response, address: str) -> None:
        """Raise the error that an unsuccessful answer means for the job."""
        status, what = answer.status_code, f"{self.kind} {address}"
        if status in (401, 403):
            secret = f"{self.kind}.tokenSecretRef"
            remediation = (
                f"the token in {secret} is invalid or lacks read access: replace it"
                if self._token
                else f"set {secret} to a Secret with a token"
            )
            raise AccessDenied(f"the server denies access to {what} (HTTP {status}): {remediation}")
        if status in (404, 410):
            raise missing(self.kind)(
                f"{what} does not exist (HTTP {status}): correct {self.kind}.source"
            )
        empty = status == 416 and answer.headers.get("Content-Range") == "bytes */0"
        if status not in (200, 206) and not empty:
            error = f"the server returned HTTP {status} for {what}"
            if not is_retryable(status) and status != 416:
                raise InvalidSpec(f"{error}: correct {self.kind}.source")
            raise Transient(f"{error}: the next attempt retries the download")

    def _meaning(self, error: Exception) -> TrainerError | None:
        if not isinstance(error, httpx.HTTPError):
            return None
        return self._untrusted(error, self.name) or Transient(
            f"{self.what} is unreachable ({brief(error)}): the next attempt retries the download. "
            "If the error persists, check the URL and the network policy"
        )
