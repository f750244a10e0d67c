"""Repeats requests to a registry that fail for a reason that may pass."""

from finetune_trainer.errors import Transient
from finetune_trainer.publishing.transfer import PAUSES, Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.sources.oci.registry_errors import Interrupted


class Tries:
    """Counts failures in a row without progress, and waits between them."""

    def __init__(self, name: str, transfer: Transfer, *, what: str) -> None:
        """``name``: of the repository. ``what``: what is tried, for the messages."""
        self._name = name
        self._transfer = transfer
        self._what = what
        self._count = 0
        self._furthest = 0

    def failed(self, error: Interrupted, *, at: int = 0) -> None:
        """Wait after a failure. Raise Transient after too many. at: bytes that were done."""
        self._count = 0 if at > self._furthest else self._count + 1
        self._furthest = max(self._furthest, at)
        if self._count == len(PAUSES):
            raise Transient(
                f"the registry of {self._name} is unreachable or fails ({error}): the "
                "next attempt sends only what it does not hold yet. If the error persists, check "
                "the registry and the network policy"
            ) from error
        log(f"{self._what} failed ({error}): trying again")
        self._transfer.pause(max(PAUSES[self._count], error.after or 0.0))
