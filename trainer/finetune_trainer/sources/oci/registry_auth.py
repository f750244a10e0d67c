"""Authentication at a registry: Basic, or a Bearer token from the realm that the registry names.

A registry could name any host as its realm. Credentials are sent only over TLS, to the host of the
registry, to a domain above it, or to a host next to it in a domain of one owner: whoever controls
these names controls the registry's, too.
"""

import base64
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from finetune_api.safety import untrusted_json
from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import AccessDenied
from finetune_trainer.sources.oci.docker_config import Login
from finetune_trainer.sources.oci.registry_errors import RegistryError

VALID_SECONDS = 60.0
"""Validity of a token without ``expires_in``, by the specification."""
USED = 0.7
"""Share of its validity after which a token is renewed before the next request."""
LONGEST_ANSWER = 1 << 20
_SHARED = {"ac", "co", "com", "edu", "go", "gob", "gov", "mil", "ne", "net", "or", "org"}
"""Domains directly below that of a country, in which anybody gets a name."""
_CHALLENGE = re.compile(r'(\w+)\s*=\s*"([^"]*)"|\b(basic|bearer)\b', re.IGNORECASE)
"""A parameter or a scheme: a word within the quotes of a parameter is none."""

Send = Callable[[httpx.Request], httpx.Response]
"""Sends a request to a realm, without redirects; the body is read up to ``LONGEST_ANSWER``."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """How a registry asks for credentials. ``scheme`` is ``basic`` or ``bearer``."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(header: str) -> dict[str, Challenge]:
    """Return the challenges in a ``WWW-Authenticate`` header by scheme."""
    by_scheme: dict[str, Challenge] = {}
    parameters: dict[str, str] = {}
    for name, value, scheme in _CHALLENGE.findall(header):
        if scheme:
            parameters = {}
            by_scheme.setdefault(
                scheme.lower(), Challenge(scheme=scheme.lower(), parameters=parameters)
            )
        else:
            parameters[name.lower()] = value
    return by_scheme


def is_trusted_realm(realm: str, host: str) -> bool:
    """Report whether the credentials of a registry may be sent to a realm that it names."""
    try:
        parts = urlsplit(realm)
        name = (parts.hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    if parts.scheme != "https" or not name or parts.username is not None:
        return False
    host = host.rstrip(".").lower()
    if name == host:
        return True
    if _is_address(name) or _is_address(host):
        return False
    above, beside = host.partition(".")[2], name.partition(".")[2]
    return (
        _has_one_owner(above)
        and (host.endswith(f".{name}") or beside == above)
        and (_has_one_owner(name))
    )


def _has_one_owner(domain: str) -> bool:
    """Report whether a domain belongs to one owner: it is no domain for everybody."""
    labels = domain.split(".")
    if len(labels) < 2 or not all(labels):
        return False
    return not (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SHARED)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Authentication:
    """The Authorization header of the requests to one repository."""

    def __init__(
        self,
        *,
        host: str,
        path: str,
        login: Login | None,
        field: str,
        actions: tuple[str, ...],
        send: Send,
    ) -> None:
        """``host``, ``path``: of the repository. ``field``: the spec field of the Secret."""
        self._host = host
        self._scope = f"repository:{path}:{','.join(actions)}"
        self._permission = " and ".join(reversed(actions))
        self._login = login
        self._field = field
        self._send = send
        self._header: str | None = None
        self._challenge: Challenge | None = None
        self._renew_at = 0.0
        if login is not None and login.registry_token:
            self._header = f"Bearer {login.registry_token}"

    def header(self) -> str | None:
        """Return the header for the next request, with a new token if the last one expires."""
        if self._challenge is not None and time.monotonic() > self._renew_at:
            self._header = self._token(self._challenge)
        return self._header

    def answer(self, header: str) -> None:
        """Set the header after a registry refused a request with the given challenges.

        Raise AccessDenied if the registry refuses the present credentials, or if there are none
        that it could be given.
        """
        offered = challenges(header)
        if "bearer" in offered and not (self._login and self._login.registry_token):
            self._header = self._token(offered["bearer"])
            self._challenge = offered["bearer"]
        elif "basic" in offered and self._login is not None and self._login.user:
            self._header = self._basic(self._login)
        else:
            raise self.denied("HTTP 401")

    def denied(self, refusal: str) -> AccessDenied:
        """Return the error for credentials that the registry refuses. refusal: its answer."""
        if self._login is None:
            remedy = f"set {self._field} to a Secret with credentials for {self._host}"
        else:
            remedy = (
                f"check that the credentials for {self._host} in {self._field} are correct and "
                f"have permission to {self._permission}"
            )
        return AccessDenied(f"the registry denies access ({one_line(refusal)}): {remedy}")

    def _basic(self, login: Login) -> str:
        return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()

    def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        login = self._login
        trusted = is_trusted_realm(realm, self._host)
        if not trusted and (login is not None or not realm.startswith("https://")):
            raise RegistryError(
                f"the registry {self._host} asks for its credentials at {one_line(realm)!r}, which "
                "is neither its own host nor a host of its domain over https, so they are not "
                "sent: correct the repository, or the token server in the configuration of the "
                "registry"
            )
        asked = {"scope": self._scope}
        if service := challenge.parameters.get("service"):
            asked["service"] = service
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token}
            request = httpx.Request(
                "POST", realm, data={**asked, **form, "client_id": "finetune-operator"}
            )
        else:
            request = httpx.Request("GET", httpx.URL(realm).copy_merge_params(asked))
            if login is not None and login.user:
                request.headers["Authorization"] = self._basic(login)
        answer = self._send(request)
        if answer.status_code in (400, 401, 403):
            raise self.denied(f"HTTP {answer.status_code} from its token server")
        token, seconds = _token_in(answer)
        self._renew_at = time.monotonic() + USED * seconds
        return f"Bearer {token}"


def _token_in(answer: httpx.Response) -> tuple[str, float]:
    """Return the token in an answer, and the seconds for which it is valid."""
    try:
        document = untrusted_json.parse(answer.content)
        token = document.get("token") or document["access_token"]
        seconds = float(document.get("expires_in") or VALID_SECONDS)
        if not re.fullmatch(r"[!-~]{1,65536}", token) or not 0 < seconds < 1e9:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise RegistryError(
            f"the token server of the registry returned no token (HTTP {answer.status_code}): "
            "check the token server in the configuration of the registry"
        ) from None
    return token, seconds
