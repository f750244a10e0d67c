"""Access for several users, each with a token that the API server accepts.

A proxy injects the token of the user into each request, or the user pastes one, which then stays in
the memory of this process. No request is sent with any other right, and nothing is impersonated.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from finetune_cli.cluster.api import Cluster, Unauthenticated
from finetune_cli.ui.access import tokens
from finetune_cli.ui.access.sessions import SESSION_SECONDS, Session, Sessions, new_secret
from finetune_cli.ui.access.streams import Streams

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
REVIEW_SECONDS = 600.0
"""After this time, the API server is asked again whose an injected token is."""
MOST_SESSIONS = 20
"""Of one user, with pasted tokens: a further login ends the oldest."""
ANONYMOUS = "system:anonymous"
ACCOUNT = "system:serviceaccount:"


class Users:
    """Sessions by pasted and by injected tokens."""

    def __init__(
        self, connect: Callable[[str], Cluster], now: Callable[[], float] = time.monotonic
    ) -> None:
        """``connect``: returns the client that sends a token. ``now``: the clock."""
        self._connect = connect
        self._now = now
        self.pasted, self.injected = Sessions(now), Sessions(now)
        self._streams: dict[str, dict[str, asyncio.Event]] = {}
        self._secret = secrets.token_bytes(32)

    async def session(self, cookie: str | None, authorization: str | None) -> Session | None:
        """Return the session of an injected token, or without one that of a cookie."""
        if authorization is None:
            return self.pasted.find(cookie)
        token = tokens.bearer(authorization)
        if token is None:
            return None
        session = self.injected.find(token)
        if session is None:
            session = await self._new(token, REVIEW_SECONDS, has_cookie=False)
            if session is not None:
                self.injected.begin(token, session)
        return session

    async def log_in(self, credential: str) -> str | None:
        """Return a cookie for a token; None for one that the API server rejects."""
        token = tokens.parsed(credential)
        session = token and await self._new(token, SESSION_SECONDS, has_cookie=True)
        if not session:
            return None
        for oldest in self.pasted.of(session.user)[: 1 - MOST_SESSIONS]:
            self.pasted.end(oldest)
        cookie = new_secret()
        self.pasted.begin(cookie, session)
        return cookie

    def valid(self, session: Session) -> bool:
        """Report whether a session has not ended."""
        return self._of(session).valid(session)

    def rejected(self, session: Session) -> None:
        """End the session: its token never becomes valid again."""
        self.end(session)

    def end(self, session: Session) -> None:
        """End a session and its streams."""
        self._of(session).end(session)

    def end_all(self) -> None:
        """End all sessions."""
        self.pasted.end_all()
        self.injected.end_all()

    def _of(self, session: Session) -> Sessions:
        return self.pasted if session.has_cookie else self.injected

    async def _new(self, token: str, most_seconds: float, *, has_cookie: bool) -> Session | None:
        """Return a session of a token; None if the API server rejects it, or its time is over."""
        left = tokens.seconds_left(token)
        seconds = most_seconds if left is None else min(most_seconds, left)
        if seconds <= 0:
            return None
        cluster = self._connect(token)
        try:
            review = await asyncio.to_thread(cluster.post, REVIEWS, REVIEW)
        except Unauthenticated:
            return None
        user = str(((review.get("status") or {}).get("userInfo") or {}).get("username") or "")
        if user in ("", ANONYMOUS):
            return None
        if user.startswith(ACCOUNT):
            cluster = replace(cluster, namespace=user.split(":")[2])
        return Session(
            user=f"user {user}",
            cluster=cluster,
            csrf=new_secret() if has_cookie else self._form_token(user),
            ends=self._now() + seconds,
            streams=Streams(self._streams.setdefault(user, {})),
            has_cookie=has_cookie,
        )

    def _form_token(self, user: str) -> str:
        """Return the token of forms that stays valid when the proxy renews the user's token."""
        return hmac.new(self._secret, user.encode(), hashlib.sha256).hexdigest()
