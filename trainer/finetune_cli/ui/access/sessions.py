"""The one-time code, and the sessions of browsers that have shown it.

A session is in the memory of this process: the cookie of an earlier process is worth nothing.
"""

import hashlib
import hmac
import secrets
import time
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_cli.ui.access.streams import Streams

CODE_BYTES = 15
"""120 bits, in groups of five letters and digits."""
MOST_WRONG_CODES = 10
"""After so many, the code is void: nobody mistypes a code that often."""
SESSION_SECONDS = 12 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser that has shown the code."""

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Token of its forms, which another site cannot read."""
    ends: float
    streams: Streams = field(default_factory=Streams)


class Sessions:
    """The code of this process, and the sessions by the digests of their cookies."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """``now``: the clock."""
        self._now = now
        self._sessions: dict[bytes, Session] = {}
        letters = b32encode(secrets.token_bytes(CODE_BYTES)).decode()
        self.code = "-".join(letters[at : at + 6] for at in range(0, len(letters), 6))
        """The code, for the terminal of the user alone."""
        self._expected: bytes | None = _digest(self.code)
        self._wrong = 0

    def exchange(self, written: str) -> str | None:
        """Return the value of a cookie for the code; None for another one, or the second time."""
        given = _digest(written.strip().upper())
        if self._expected is None or not hmac.compare_digest(given, self._expected):
            self._wrong += 1
            if self._wrong >= MOST_WRONG_CODES:
                self._expected = None
            return None
        self._expected = None
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = Session(ends=self._now() + SESSION_SECONDS)
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie, None without one that is valid."""
        key = _digest(cookie or "")
        session = self._sessions.get(key)
        if session is not None and not self.valid(session):
            self.end(session)
            return None
        return session

    def valid(self, session: Session) -> bool:
        """Report whether a session has not ended."""
        return session in self._sessions.values() and self._now() < session.ends

    def end(self, session: Session) -> None:
        """End a session and its streams."""
        self._sessions = {
            key: other for key, other in self._sessions.items() if other is not session
        }
        session.streams.end_all()

    def end_all(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            self.end(session)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
