"""The errors of a registry that no repetition of a request remedies, and interruptions."""


class RegistryError(Exception):
    """A registry refuses a request, or its answers cannot be used."""


class Refused(RegistryError):
    """The registry refuses a request, with the HTTP status ``status``."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):
    """A request failed for a reason that may pass; the text names it."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        """``after``: seconds that the server asks to wait."""
        super().__init__(reason)
        self.after = after
