"""Access for the user who has started the process, who alone sees the one-time code."""

import hmac
import secrets
from base64 import b32encode

from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.access.sessions import (
    SESSION_SECONDS,
    Session,
    Sessions,
    digest,
    new_secret,
)

CODE_BYTES = 15
"""120 bits, in groups of five letters and digits."""
MOST_WRONG_CODES = 10
"""After so many, the code is void: nobody mistypes a code that often."""


class OneUser:
    """Sessions with the rights of a kubeconfig."""

    def __init__(self, cluster: Cluster) -> None:
        """``cluster``: the client with these rights."""
        self._cluster = cluster
        self.sessions = Sessions()
        letters = b32encode(secrets.token_bytes(CODE_BYTES)).decode()
        self.code = "-".join(letters[at : at + 6] for at in range(0, len(letters), 6))
        """The code, for the terminal of the user alone."""
        self._expected: bytes | None = digest(self.code)
        self._wrong = 0

    async def session(self, cookie: str | None, authorization: str | None) -> Session | None:
        """Return the session of a cookie."""
        return self.sessions.find(cookie)

    async def log_in(self, credential: str) -> str | None:
        """Return a cookie for the code; None for another one, or the second time."""
        given = digest(credential.strip().upper())
        if self._expected is None or not hmac.compare_digest(given, self._expected):
            self._wrong += 1
            if self._wrong >= MOST_WRONG_CODES:
                self._expected = None
            return None
        self._expected = None
        cookie = new_secret()
        session = Session(
            user=f"context {self._cluster.context}",
            cluster=self._cluster,
            ends=self.sessions.now() + SESSION_SECONDS,
        )
        self.sessions.begin(cookie, session)
        return cookie

    def valid(self, session: Session) -> bool:
        """Report whether a session has not ended."""
        return self.sessions.valid(session)

    def rejected(self, session: Session) -> None:
        """Keep the session: the kubeconfig may get other credentials."""

    def end(self, session: Session) -> None:
        """End a session and its streams."""
        self.sessions.end(session)

    def end_all(self) -> None:
        """End all sessions."""
        self.sessions.end_all()
