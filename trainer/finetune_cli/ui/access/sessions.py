"""Sessions of browsers, by a secret that only the browser, or the proxy in front of it, sends.

They are in the memory of this process: a secret of an earlier process is worth nothing.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.access.streams import Streams

SESSION_SECONDS = 12 * 3600.0


def new_secret() -> str:
    """Return a text that nobody guesses."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A browser whose user is known."""

    user: str
    """Whose rights it has, in the words that the pages show."""
    cluster: Cluster
    """The client with the rights of the user."""
    csrf: str = field(default_factory=new_secret, repr=False)
    """Token of its forms, which another site cannot read."""
    ends: float
    streams: Streams = field(default_factory=Streams)
    has_cookie: bool = True
    """Whether a cookie leads to it, which a logout deletes."""


class Sessions:
    """Sessions by the digests of their secrets."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """``now``: the clock."""
        self.now = now
        self._sessions: dict[bytes, Session] = {}

    def begin(self, secret: str, session: Session) -> None:
        """Begin a session. Sessions whose time is over are forgotten."""
        for other in list(self._sessions.values()):
            if not self.valid(other):
                self.end(other)
        self._sessions[digest(secret)] = session

    def find(self, secret: str | None) -> Session | None:
        """Return the session of a secret, None without one that is valid."""
        session = self._sessions.get(digest(secret or ""))
        if session is not None and not self.valid(session):
            self.end(session)
            return None
        return session

    def of(self, user: str) -> list[Session]:
        """Return the sessions of a user, the oldest first."""
        return [session for session in self._sessions.values() if session.user == user]

    def valid(self, session: Session) -> bool:
        """Report whether a session has not ended."""
        return session in self._sessions.values() and self.now() < session.ends

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


def digest(text: str) -> bytes:
    """Return the SHA-256 digest of a secret, which is kept and compared in its place."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
