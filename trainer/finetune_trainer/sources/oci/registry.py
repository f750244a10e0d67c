"""Requests to one repository of an OCI registry, with retries, redirects and authentication.

Only requests to the registry itself have credentials: neither those to another host that stores
blobs, nor redirects. Everything is sent over TLS.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx

from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.sources import egress
from finetune_trainer.sources.oci.docker_config import (
    DOCKER_HUB,
    DOCKER_HUB_API,
    Login,
)
from finetune_trainer.sources.oci.registry_auth import LONGEST_ANSWER, Authentication
from finetune_trainer.sources.oci.registry_errors import Interrupted, Refused, RegistryError
from finetune_trainer.sources.oci.transport import Transport
from finetune_trainer.sources.origin import origin
from finetune_trainer.sources.repository import brief, denial
from finetune_trainer.sources.transfer import is_full, is_retryable

TIMEOUT = httpx.Timeout(60.0, connect=20.0)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
SHOWN = 2048
"""Bytes of the body of an error that are read for the message."""

Body = Callable[[], Iterator[bytes]]
"""Returns the body of a request; a repeated request needs it again."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The spec fields that the errors of a client name."""

    secret: str
    """Of the Secret with the credentials."""
    certificates: str
    """Of the ConfigMap with the certificate authority."""


class Client:
    """A repository, ``HOST[:PORT]/PATH``, spoken to by the OCI distribution specification."""

    def __init__(
        self,
        repository: str,
        *,
        login: Login | None,
        fields: Fields,
        context: ssl.SSLContext,
        pushes: bool,
    ) -> None:
        """``context``: what TLS trusts. ``pushes``: whether permission to push is needed, too."""
        self.name = repository
        self._fields = fields
        self._pushes = pushes
        host, _, path = repository.partition("/")
        if host == DOCKER_HUB:
            host = DOCKER_HUB_API
        self._base = f"https://{host}/v2/{path}/"
        self._origin = origin(self._base)
        # Without compression: a decompressed answer would have another digest.
        self._client = httpx.Client(
            transport=Transport(context), headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT
        )
        self._authentication = Authentication(
            host=urlsplit(self._base).hostname or "",
            path=path,
            login=login,
            field=fields.secret,
            actions=("pull", "push") if pushes else ("pull",),
            send=self._send_to_realm,
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def absolute(self, location: str, base: str = "") -> str:
        """Return the URL of a location, relative to ``base`` or the repository.

        Raise RegistryError if it is not https.
        """
        try:
            url = urljoin(base or self._base, location)
            parts = urlsplit(url)
            secure = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
        except ValueError:
            secure = False
        if not secure:
            raise RegistryError(
                f"the registry refers to {one_line(location)!r}, which is no https:// address: "
                "correct the address that the registry has of itself in its configuration"
            )
        return url

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accepted: tuple[int, ...],
    ) -> Iterator[httpx.Response]:
        """Send a request once, and yield the response, whose body is not read.

        url: absolute, or relative to the repository. Raise Interrupted for an error that may pass,
        Refused for a status that is not accepted, AccessDenied for 401 and 403.
        """
        url = urljoin(self._base, url)
        with self._named_errors():
            response = self._follow(method, url, dict(headers or {}), body)
            if response.status_code == 401:
                challenge = response.headers.get("WWW-Authenticate", "")
                _end(response)
                self._authentication.answer(challenge)
                response = self._follow(method, url, dict(headers or {}), body)
            try:
                if response.status_code not in accepted:
                    self._refuse(method, response)
                yield response
            except BaseException:
                response.close()
                raise
            _end(response)

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: Body | None
    ) -> httpx.Response:
        for _ in range(MOST_REDIRECTS + 1):
            own = origin(url) == self._origin
            header = self._authentication.header() if own else None
            request = self._client.build_request(
                method,
                url,
                headers=headers | ({} if header is None else {"Authorization": header}),
                content=None if body is None else body(),
            )
            response = self._send(request)
            keeps = method in ("GET", "HEAD") or response.status_code in (307, 308)
            if response.status_code not in REDIRECTS or not keeps:
                if response.status_code == 401 and not own:
                    with closing(response):
                        self._refuse(method, response)
                return response
            location = response.headers.get("Location", "")
            _end(response)
            url = self.absolute(location, url)
        raise RegistryError(
            f"the registry redirects a request more than {MOST_REDIRECTS} times: check the "
            "configuration of the registry"
        )

    def _send(self, request: httpx.Request) -> httpx.Response:
        # The policy has allowed the repository; its hosts apply to other servers.
        own = origin(str(request.url)) == self._origin
        egress.announce(str(request.url), chosen_by_job=not own)
        return self._client.send(request, stream=True, follow_redirects=False)

    def _send_to_realm(self, request: httpx.Request) -> httpx.Response:
        """Send a request for a token and return the response with a body of limited size."""
        response = self._send(request)
        try:
            if is_retryable(response.status_code):
                raise _interrupted(response)
            content = read_up_to(response, LONGEST_ANSWER)
            return httpx.Response(response.status_code, content=content)
        finally:
            response.close()

    def _refuse(self, method: str, response: httpx.Response) -> None:
        """Raise the error that the status of a response means."""
        status, text = response.status_code, ""
        if method != "HEAD":
            text = read_up_to(response, SHOWN, whole=False).decode(errors="replace")
        answer = one_line(f"HTTP {status} {text}".strip())
        if is_full(status, text):
            raise RegistryError(
                f"the registry has no space left for {self.name}, or a quota is used up "
                f"({answer}): free space or raise the quota, and "
                f"{'publish again' if self._pushes else 'set spec.rerun to a new value'}"
            )
        if status in (401, 403):
            raise self._authentication.denied(answer)
        if is_retryable(status):
            raise _interrupted(response, text)
        complete = "the registry accepts OCI images" if self._pushes else "the image is complete"
        raise Refused(
            f"the registry refuses {method} for {self.name} ({answer}): check that the repository "
            f"exists, and that {complete}",
            status,
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            if (denied := denial(error)) is not None:
                raise denied from None
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise InvalidSpec(
                    f"the certificate of the registry of {self.name} is not trusted "
                    f"({brief(error)}): set {self._fields.certificates} to a ConfigMap with its "
                    "certificate authority, or let an administrator set the chart value "
                    "caCertificates"
                ) from error
            if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
                raise RegistryError(
                    f"the registry refers to an invalid address ({brief(error)}): correct its "
                    "configuration"
                ) from error
            if not isinstance(error, httpx.TransportError):
                raise
            raise Interrupted(brief(error)) from error


def read_up_to(response: httpx.Response, limit: int, *, whole: bool = True) -> bytes:
    """Return the body of a response. Raise RegistryError if it is longer than ``limit`` bytes.

    whole: otherwise, the first ``limit`` bytes are enough.
    """
    data = b""
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > limit:
            if not whole:
                break
            raise RegistryError(
                f"the registry sends a document of more than {limit:,} bytes: check the registry"
            )
    return data[:limit]


def _end(response: httpx.Response) -> None:
    """Close a response; its connection is used again if little of the body is left."""
    try:
        if not response.is_stream_consumed:
            read_up_to(response, SHOWN, whole=False)
    except httpx.HTTPError:
        pass
    finally:
        response.close()


def _interrupted(response: httpx.Response, text: str = "") -> Interrupted:
    after = response.headers.get("Retry-After", "")
    return Interrupted(
        one_line(f"HTTP {response.status_code} {text}".strip()),
        after=float(after) if after.isdecimal() and len(after) < 9 else None,
    )
