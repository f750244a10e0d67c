"""JSON logs: one object a line, with the job's key wherever the line is about one."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_key: ContextVar[str | None] = ContextVar("job", default=None)
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# kopf says a line about every event of every object, at INFO.
_QUIET = ("kopf.objects", "kopf.activities", "kopf._core", "kopf._cogs", "aiohttp.access")


@contextmanager
def about(namespace: str, name: str) -> Iterator[None]:
    """Name the job in every line that is logged in the block."""
    token = _key.set(f"{namespace}/{name}")
    try:
        yield
    finally:
        _key.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record, with whatever ``extra`` it was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (key := _key.get()) is not None:
            line["job"] = key
        line |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str) -> None:
    """Log to stderr as JSON. Raises ValueError for a level that is none."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It is told to stop by other means (`watches`), and warns that no signal reaches it.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    logging.captureWarnings(True)
