"""What the application asks about each request: whose it is."""

from typing import Protocol

from finetune_cli.ui.access.sessions import Session


class Access(Protocol):
    """Finds, begins and ends sessions. Errors of the API server are raised as CommandFailed."""

    async def session(self, cookie: str | None, authorization: str | None) -> Session | None:
        """Return the session of a request, by its cookie and its header Authorization."""

    async def log_in(self, credential: str) -> str | None:
        """Return the cookie of a new session; None for a credential that is not accepted."""

    def valid(self, session: Session) -> bool:
        """Report whether a session has not ended."""

    def rejected(self, session: Session) -> None:
        """React to an API server that rejects the credentials of a session."""

    def end(self, session: Session) -> None:
        """End a session and its streams."""

    def end_all(self) -> None:
        """End all sessions."""
