"""The one exception tree of the local cluster.

Every error carries what a person needs next: what failed, where the log is, and the way out.
"""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """Something that a person must look at; printed without a traceback.

    ``log`` names the file with the details, ``hint`` the way out.
    """

    def __init__(self, message: str, *, log: Path | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.log = log
        self.hint = hint
        self.phase = ""


class CommandFailed(ClusterError):
    """A command ended with a non-zero status."""


class NotReady(ClusterError):
    """A component did not become ready in time, or ended while it was waited for."""


class Unsupported(ClusterError):
    """This machine lacks something that cannot be installed."""
