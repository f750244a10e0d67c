"""Callers: an API key is known by its SHA-256 only. Pure.

A key is random and long, so its digest reveals nothing and needs no salt. An unknown key is a
caller like every other: it may use the names that need no key. So no answer tells an unknown name
from a forbidden one, or a wrong key from a missing one.
"""

import hashlib
from collections.abc import Collection

Caller = str
"""SHA-256 (hex) of the bearer token; empty without one."""
ANONYMOUS: Caller = ""
SCHEME = "bearer "


def caller(authorization: str | None) -> Caller:
    """Return the caller of a request from the value of its header."""
    if authorization is None or not authorization.lower().startswith(SCHEME):
        return ANONYMOUS
    token = authorization[len(SCHEME) :]
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def may_use(caller: Caller, allowed: Collection[str] | None) -> bool:
    """Report whether a caller may use a name. allowed: of the wanted set; None allows everyone."""
    return allowed is None or caller in allowed
