"""Errors of the gate."""


class Refused(Exception):
    """A wanted set is not used; the text says why."""


class Rejected(Exception):
    """An adapter cannot be served; the text names file or tensor, and what to do."""


class NotCopied(Rejected):
    """The file system failed while an adapter was copied; another attempt may succeed."""


class BadRequest(Exception):
    """A request is not forwarded. ``field``: the field that must change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Busy(Exception):
    """The queue of a name is full."""


class NotRead(Exception):
    """The body of a request is not read. ``status``: of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
