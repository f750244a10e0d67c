"""Versions of the state that outlives an operator: the ledger and frozen configurations.

An operator that is rolled back, or upgraded over a pre-release, may find state that it cannot read.
It changes nothing then: to guess would train again or lose records.
"""

LEDGER_VERSION = 2
"""Format of ``status.revisions``, written to ``status.ledgerVersion``."""


class UnsupportedVersion(Exception):
    """State of another version of the operator cannot be read; the message says what to do."""

    def __init__(self, state: str, cause: str) -> None:
        """``state``: names the unreadable state; ``cause``: the value that is not supported."""
        super().__init__(
            f"{state} was written by another version of the operator and cannot be read ({cause}): "
            "run that version of the operator or a newer one, or delete and re-create the job to "
            "start again"
        )
