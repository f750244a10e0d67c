"""Credentials of a registry, from a Docker configuration file (``.dockerconfigjson``)."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from finetune_api.safety import untrusted_json
from finetune_trainer.errors import AccessDenied

DOCKER_HUB, DOCKER_HUB_API = "docker.io", "registry-1.docker.io"


@dataclass(frozen=True, kw_only=True)
class Login:
    """A user with a password, or one of the two kinds of tokens that a configuration may have."""

    user: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


def login(text: str, repository: str, *, field: str, helpers: bool = False) -> Login | None:
    """Return the login for a repository (``HOST/PATH``); None if there is none.

    The entry with the longest matching path applies, as in a kubelet. field: the spec field that
    names the Secret, for the error; helpers: whether a file that names only a credential helper is
    one without a login. Raise AccessDenied, without the text, if it cannot be used.
    """
    try:
        document = untrusted_json.parse(text)
        entries = document.get("auths") or {}
        by_name = {_key(name): entry for name, entry in entries.items()}
    except (ValueError, AttributeError):
        raise _unusable("is not a Docker configuration", field) from None
    name = _key(repository)
    while name:
        if name in by_name:
            return _of_entry(by_name[name], name, field)
        name = name.rpartition("/")[0]
    if not helpers and (document.get("credsStore") or document.get("credHelpers")):
        raise _unusable(
            f"has no credentials for {repository}, only the name of a credential helper, which "
            "the pod does not have",
            field,
        )
    return None


def _key(name: str) -> str:
    name = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, path = name.partition("/")
    if host in (DOCKER_HUB, DOCKER_HUB_API, "index.docker.io"):
        host, path = DOCKER_HUB, "" if path in ("v1", "v2") else path
    return f"{host}/{path}".removesuffix("/v1").removesuffix("/v2").rstrip("/")


def _of_entry(entry: Any, name: str, field: str) -> Login | None:
    try:
        user, password = entry.get("username") or "", entry.get("password") or ""
        if entry.get("auth"):
            user, _, password = (
                base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            )
        credentials = Login(
            user=user,
            password=password,
            identity_token=entry.get("identitytoken") or "",
            registry_token=entry.get("registrytoken") or "",
        )
        texts = vars(credentials).values()
        # Passwords are encoded before they are sent: Google's is a file with line breaks.
        as_sent = (credentials.user, credentials.registry_token)
        if not all(isinstance(text, str) and text == text.strip() for text in texts):
            raise ValueError
        if not all(text.isprintable() for text in as_sent):
            raise ValueError
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise _unusable(f"has an invalid entry for {name}", field) from None
    return credentials if any(texts) else None


def _unusable(problem: str, field: str) -> AccessDenied:
    return AccessDenied(
        f"the Secret in {field} {problem}: create the Secret with kubectl create secret "
        f"docker-registry, and name it in {field}"
    )
