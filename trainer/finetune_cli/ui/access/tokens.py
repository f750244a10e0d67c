"""Bearer tokens of users: their syntax, and their time."""

import base64
import json
import re
import time

MOST_CHARACTERS = 16 * 1024
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The syntax of a bearer token (RFC 6750), so that it cannot end the header that it is sent in."""


def parsed(text: str) -> str | None:
    """Return a token without the spaces around it, None if the text is not a token."""
    token = text.strip()
    return token if len(token) <= MOST_CHARACTERS and TOKEN.fullmatch(token) else None


def bearer(authorization: str) -> str | None:
    """Return the token of a header Authorization, None if it has another scheme."""
    scheme, _, token = authorization.partition(" ")
    return parsed(token) if scheme.lower() == "bearer" else None


def seconds_left(token: str) -> float | None:
    """Return for how long a token says that it is valid; None if it does not say so.

    The API server has accepted the token: here, its signature is not checked.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"]) - time.time()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
