"""JSON logs: one object per line, with the object that is being reconciled.

Its fields have the names of controller-runtime: kind, namespace and name.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_reconciled: ContextVar[Mapping[str, str] | None] = ContextVar("reconciled", default=None)
# kopf logs a line at INFO for every event of every object.
_QUIET = ("kopf.objects", "kopf.activities", "kopf._core", "kopf._cogs", "aiohttp.access")


@contextmanager
def reconciling(kind: str, namespace: str, name: str) -> Iterator[None]:
    """Add kind, namespace and name of an object to every line that is logged in the block."""
    token = _reconciled.set({"kind": kind, "namespace": namespace, "name": name})
    try:
        yield
    finally:
        _reconciled.reset(token)


class Formatter(JsonFormatter):
    """Formats a record as ``ts, level, logger, message``, the object, ``extra``, ``exception``."""

    def __init__(self) -> None:
        super().__init__(
            [],
            rename_fields={"exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, "taskName"],
            json_default=str,
            json_ensure_ascii=False,
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add the fields of a record."""
        time = datetime.fromtimestamp(record.created, UTC)
        log_data["ts"] = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data |= _reconciled.get() or {}
        super().add_fields(log_data, record, message_dict)


def configure(level: str) -> None:
    """Log to stderr as JSON. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # kopf warns if SIGTERM arrives before the startup handler has ended.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    logging.captureWarnings(True)
