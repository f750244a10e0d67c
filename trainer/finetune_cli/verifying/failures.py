"""Why a model is not verified, each with an exit code of its own."""

from enum import IntEnum
from typing import NoReturn

from finetune_cli.errors import CommandFailed


class Code(IntEnum):
    """Exit codes of ``ftj verify``. If several apply, the first of them is the exit code."""

    NO_STATEMENT = 10
    NOT_SIGNED = 11
    CHANGED = 12
    MISSING = 13
    EXTRA = 14
    OTHER_BASE = 15


class NotVerified(CommandFailed):
    """The model is not what a statement with the signature of the key says."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def fail(code: Code, message: str) -> NoReturn:
    """Raise the failure."""
    raise NotVerified(code, message)
