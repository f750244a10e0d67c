"""The exception tree of the local cluster.

Each error states the failure, the log file with the details, and the fix.
"""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """A failure that the user must fix; printed without a traceback.

    ``log`` is the file with the details, ``hint`` the fix in the imperative.
    """

    def __init__(self, message: str, *, log: Path | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.log = log
        self.hint = hint
        self.phase = ""


class CommandFailed(ClusterError):
    """A command ended with a non-zero status."""


class NotReady(ClusterError):
    """A component exited, or did not become ready in time."""


class Unsupported(ClusterError):
    """This machine lacks a requirement that cannot be installed."""
