"""Credentials in the environment: which variables hold one, and which values are valid.

The kubelet sets these variables from keys of Secrets. A job author chooses the Secret and the key,
so a value may be anything: a token with a line break, a private key, a kubeconfig. A library that
receives such a value quotes it in its error. A value is therefore checked before any use, and the
error never quotes it.

The variables of a target of the publish stage begin with ``of_target``. For OCI, ``DOCKER_CONFIG``
follows: the content of a Docker configuration file (``.dockerconfigjson``). For S3, the names of
``S3_KEYS`` follow; for a hub, ``HUB_TOKEN``;
for MLflow, the names of ``MLFLOW_KEYS``.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from finetune_api.safety import untrusted_json

S3_KEYS = {
    "AWS_ACCESS_KEY_ID": False,
    "AWS_SECRET_ACCESS_KEY": False,
    "AWS_SESSION_TOKEN": True,
}
"""Keys of a Secret for S3, which are names of variables as well, and whether each is optional."""
DOCKER_CONFIG = "DOCKER_CONFIG_JSON"
"""Name of the variable with the credentials of an OCI registry."""
HUB_TOKEN = "HF_TOKEN"  # noqa: S105 (the name of a variable)
"""Name of the variable with the token of a hub."""
MLFLOW_KEYS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
"""Keys of a Secret for MLflow, which are names of variables as well. Each is optional."""
MAX_LENGTH = 8192
"""HTTP servers usually reject longer headers."""
_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|SECRET_KEY|PRIVATE_KEY)$",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"://([^/\s@]+)@")


class InvalidCredential(ValueError):
    """A credential cannot be used. The text names the problem and never quotes the value."""


def checked(value: str, *, what: str, field: str, strip: bool = True) -> str:
    """Return a credential without surrounding white space. Raise InvalidCredential.

    what, field: the credential and the spec field that names its Secret, for the error. strip:
    whether surrounding white space is removed; otherwise it is an error.
    """
    text = value.strip() if strip else value
    if problem := _problem(text):
        raise InvalidCredential(
            f"{what} in {field} {problem}: store it as one line of visible ASCII characters in "
            f"another Secret or key, and name that in {field}"
        )
    return text


def of_target(name: str) -> str:
    """Return the prefix of the variables with the credentials of a target, with an underscore.

    name: a DNS label, which has no underscore, so that no two targets have the same prefix.
    """
    return f"PUBLISH_{name.upper().replace('-', '_')}_"


def values(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of all variables that hold a credential, and the passwords in URLs.

    Of a Docker configuration, these are the passwords and tokens of all registries.
    """
    for name, value in environment.items():
        if _NAME.search(name):
            yield value
        if name.endswith(DOCKER_CONFIG):
            yield from _of_registries(value)
        for user_info in _USER_INFO.findall(value):
            # Without a colon, the only part may be a token.
            password = user_info.rpartition(":")[2]
            yield password
            yield unquote(password)


def _of_registries(text: str) -> Iterator[str]:
    try:
        registries = untrusted_json.parse(text)["auths"].values()
    except (ValueError, TypeError, KeyError, AttributeError):
        # Nobody can use a text of another form, but it may be a password itself.
        yield text
        return
    for registry in registries:
        secrets: Any = registry if isinstance(registry, dict) else {"auth": registry}
        for key in ("auth", "password", "identitytoken", "registrytoken"):
            if isinstance(secret := secrets.get(key), str) and secret:
                yield secret
        if isinstance(auth := secrets.get("auth"), str):
            yield from _password_in(auth)


def _password_in(auth: str) -> Iterator[str]:
    """Yield the password in the value of Basic authentication."""
    try:
        password = base64.b64decode(auth).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return
    if password:
        yield password


def _problem(text: str) -> str | None:
    if not text:
        return "is empty"
    if len(text) > MAX_LENGTH:
        return f"has more than {MAX_LENGTH:,} characters"
    if "\n" in text or "\r" in text:
        return "contains a line break"
    if not all("!" <= character <= "~" for character in text):
        return "contains white space or characters that are not visible ASCII"
    return None
