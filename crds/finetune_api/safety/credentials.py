"""Credentials in the environment: which variables hold one, and which values are valid.

The kubelet sets these variables from keys of Secrets. A job author chooses the Secret and the key,
so a value may be anything: a token with a line break, a private key, a kubeconfig. A library that
receives such a value quotes it in its error. A value is therefore checked before any use, and the
error never quotes it.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

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


def values(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of all variables that hold a credential, and the passwords in URLs."""
    for name, value in environment.items():
        if _NAME.search(name):
            yield value
        for user_info in _USER_INFO.findall(value):
            # Without a colon, the only part may be a token.
            password = user_info.rpartition(":")[2]
            yield password
            yield unquote(password)


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
