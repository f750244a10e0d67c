"""Everything that the operator raises at its edges.

::

    OperatorError
    ├── Transient         the API server or the way to it failed: look again, later and later
    │   ├── NotFound      what was written to is gone
    │   └── NotLeading    another replica may be at work: nothing was sent
    ├── Conflict          somebody wrote in the meantime: look again at once; not an error
    └── Terminal          refused, and would be again: reported in the status, tried again slowly
        └── NameConflict  somebody else's object has the name that a child needs

``reason`` is the word that a condition shows, the text is its message.
"""

from finetune_api.v1alpha1.reasons import Reason


class OperatorError(Exception):
    """Any of the below."""

    reason = Reason.ERROR


class Transient(OperatorError):
    """A failure that passes by itself; ``retry_after`` is what the server asked for, in seconds."""

    reason = Reason.API_UNAVAILABLE

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFound(Transient):
    """The object, its namespace or its kind is not there."""

    reason = Reason.NOT_FOUND


class NotLeading(Transient):
    """A write was asked for after this replica's Lease was over."""

    reason = Reason.NOT_LEADING


class Conflict(OperatorError):
    """The object is not, or no longer, as it was observed."""

    reason = Reason.CONFLICT


class Terminal(OperatorError):
    """The API server refuses the request as it is."""

    def __init__(self, message: str, *, reason: Reason = Reason.FAILED_CREATE) -> None:
        super().__init__(message)
        self.reason = reason


class NameConflict(Terminal):
    """An object of this name exists and is not the job's; it is left alone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.NAME_CONFLICT)
