"""Errors of the I/O packages, and how the controller handles each.

::

    OperatorError
    ├── Transient         the API server or the network failed: retried with exponential backoff
    │   ├── NotFound      the target of a write does not exist
    │   ├── Gone          the resourceVersion of a list or watch is too old: listed again
    │   └── NotLeading    this replica does not hold the Lease: the write was not sent
    ├── Restored          the API server has an older state than before: the process restarts
    ├── Conflict          the object changed since it was read: reconciled again at once, no error
    └── Terminal          rejected, and a retry would be too: reported in status, retried slowly
        ├── NameConflict     an object of this name exists and is not controlled by the job
        └── ContentConflict  an object of this name exists with another content

``reason`` becomes the reason of a condition, the text its message.
"""

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.types import Object


class OperatorError(Exception):
    """Base class of the errors of this module."""

    reason = Reason.ERROR


class Transient(OperatorError):
    """A failure that ends without a change; ``retry_after``: seconds requested by the server."""

    reason = Reason.API_UNAVAILABLE

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFound(Transient):
    """The object, its namespace or its kind does not exist."""

    reason = Reason.NOT_FOUND


class Gone(Transient):
    """The API server does not have the state of this resourceVersion any more."""


class NotLeading(Transient):
    """A write was requested after the Lease of this replica had expired."""

    reason = Reason.NOT_LEADING


class Restored(OperatorError):
    """A list contradicts what was observed before: etcd was restored from a backup."""


class Conflict(OperatorError):
    """The object is not in the version that was read."""

    reason = Reason.CONFLICT


class Terminal(OperatorError):
    """The API server rejects the request."""

    rejected: Object | None = None
    """The object that was to be written; None if the request was another one."""

    def __init__(self, message: str, *, reason: Reason = Reason.FAILED_CREATE) -> None:
        super().__init__(message)
        self.reason = reason


class NameConflict(Terminal):
    """An object of this name exists and is not controlled by the job; it is not changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.NAME_CONFLICT)


class ContentConflict(Terminal):
    """An object of this name exists with content that the operator would not write."""

    def __init__(self, existing: Object) -> None:
        self.existing = existing
        kind, name = existing["kind"], existing["metadata"]["name"]
        super().__init__(
            f"{kind} {name} exists, but its content differs from the content that the operator "
            f"would write. Delete {kind} {name}: the operator then creates it again.",
            reason=Reason.CONFIGURATION_CHANGED,
        )
