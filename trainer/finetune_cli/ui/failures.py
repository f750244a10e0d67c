"""Which page, with which status, an error becomes."""

import sys
from http import HTTPStatus

from finetune_api.safety import redaction
from finetune_cli.cluster.api import NotFound, Unreachable
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.ui.pages import messages
from finetune_cli.ui.pages.layout import Page
from finetune_cli.ui.reading.rights import Denied

STATUS: tuple[tuple[type[CommandFailed], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (WrongCall, HTTPStatus.BAD_REQUEST),
    (Unreachable, HTTPStatus.BAD_GATEWAY),
    (CommandFailed, HTTPStatus.BAD_GATEWAY),
)


def page(error: CommandFailed) -> Page:
    """Return the page of an error."""
    if isinstance(error, Denied):
        return messages.denied(error.right, str(error))
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return messages.error(status.phrase, str(error), status)


def of_status(code: int) -> Page:
    """Return the page of a status of HTTP."""
    status = HTTPStatus(code)
    return messages.error(status.phrase, status.description or status.phrase, code)


def unexpected(error: Exception) -> Page:
    """Return the page of a bug, which this process prints."""
    return messages.error("Error", reported(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def reported(error: Exception) -> str:
    """Print a bug, and return it in words without its text: it may contain anything."""
    name = type(error).__name__
    print(f"ftj ui: unexpected {name}: {redaction.one_line(error)}", file=sys.stderr)
    return f"Unexpected {name}. The terminal of ftj ui shows it: report it as a bug."
