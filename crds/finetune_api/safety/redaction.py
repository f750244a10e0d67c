"""Text that leaves a process, without credentials.

``mask`` replaces the values of all credentials in the environment (``credentials.values``), in
every form in which a library may print them: as they are, each line and each long word, escaped by
``repr`` or JSON, percent-encoded, and in base64. It also replaces credentials that the environment
does not hold, if their syntax shows them: user information and signatures in URLs, and values of
Authorization headers. Text must be masked before it is shortened: a part of a credential is not
found.

``install`` masks everything that the process writes to stdout and stderr: log lines, loggers of
libraries, warnings, and tracebacks of all threads. ``termination.write`` masks results.
"""

import base64
import functools
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

from finetune_api.safety import credentials
from finetune_api.safety.printable import escaped, printable

MASK = "[redacted]"
SHORTEST_VALUE = 4
"""A shorter value would mask ordinary text, and so reveal itself."""
SHORTEST_PART = 8
"""Length from which a line or a word of a value is masked on its own."""
_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"), MASK),
    (
        re.compile(
            r"([?&;](?:X-(?:Amz|Goog)-[\w-]+|Signature|sig|Policy|Key-Pair-Id|AWSAccessKeyId|"
            r"(?:\w+_)?token|api_?key|password|secret)=)[^&\s'\"<>\\]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(Bearer|Basic) [A-Za-z0-9._~+/=-]{16,}"), rf"\1 {MASK}"),
)


def mask(text: str) -> str:
    """Return a text without the credentials of this process."""
    masked = _without(text, _forms(tuple(sorted(set(credentials.values(os.environ))))))
    for pattern, replacement in _PATTERNS:
        masked = pattern.sub(replacement, masked)
    return masked


def mask_all(value: Any) -> Any:
    """Return JSON values with every string masked, keys included."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(key)): mask_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_all(inner) for inner in value]
    return value


def one_line(text: object, limit: int = 200) -> str:
    """Return a text, or the text of an error, masked, as one line of at most ``limit`` characters.

    For text that the process did not write itself.
    """
    return printable(mask(str(text)))[:limit]


def install() -> None:
    """Mask stdout and stderr of this process from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, MaskedStream):
            setattr(sys, name, MaskedStream(stream))


class MaskedStream:
    """A text stream that masks each line before it writes the line to another stream.

    An incomplete line is kept until it is complete, or until ``flush``. Control characters are
    escaped, so that no file name forges or hides log lines, or controls the terminal of a user.
    """

    def __init__(self, stream: TextIO) -> None:
        """``stream`` receives the masked text."""
        self._stream = stream
        self._pending = ""
        # Reentrant: a signal handler may log while the same thread writes.
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write complete lines; keep the rest."""
        with self._lock:
            complete, newline, rest = (self._pending + text).rpartition("\n")
            self._pending = rest
            if newline:
                self._stream.write(self._clean(complete) + newline)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write the incomplete line, too."""
        with self._lock:
            pending, self._pending = self._pending, ""
            self._stream.write(self._clean(pending))
            self._stream.flush()

    def _clean(self, text: str) -> str:
        return escaped(mask(text), keep="\n\r\t")

    def draw(self, text: str) -> None:
        """Write text with the control characters of a progress bar at once."""
        with self._lock:
            self.flush()
            self._stream.write(mask(text))
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Canvas:
    """A terminal for a progress bar, whose text is not from outside: nothing is escaped."""

    def __init__(self, stream: TextIO) -> None:
        """``stream`` is stdout or stderr, masked or not."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text with control characters."""
        if isinstance(self._stream, MaskedStream):
            self._stream.draw(text)
        else:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@functools.lru_cache(maxsize=2)
def _forms(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return all texts that must be masked."""
    forms: set[str] = set()
    for value in values:
        if len(value.strip()) < SHORTEST_VALUE:
            continue
        wholes = {value, value.strip()}
        for whole in wholes:
            forms.update(_base64(whole))
        words = (*value.splitlines(), *value.split())
        parts = {part.strip() for part in words if len(part.strip()) >= SHORTEST_PART}
        for part in wholes | parts:
            forms.update(_escaped(part))
    return tuple(forms)


def _escaped(text: str) -> Iterator[str]:
    """Yield a text as it is, and as repr, JSON and URLs write it."""
    data = _bytes(text)
    yield text
    yield repr(text)[1:-1]
    yield repr(data)[2:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    for encoded in (quote(data), quote(data, safe=""), quote_plus(data)):
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)


def _base64(text: str) -> Iterator[str]:
    """Yield the characters of base64 that depend on a text alone, at each of three alignments.

    These characters also appear in the base64 of a longer text, such as ``user:password``.
    """
    for before in range(3):
        data = bytes(before) + _bytes(text)
        # The first characters also encode the bytes before, the last one the bytes after.
        own = base64.b64encode(data).decode()[-(-before * 8 // 6) : len(data) * 8 // 6]
        if len(own) >= SHORTEST_PART:
            yield own
            yield own.replace("+", "-").replace("/", "_")


def _bytes(text: str) -> bytes:
    # The environment may contain bytes that are not UTF-8.
    return text.encode("utf-8", "surrogateescape")


def _without(text: str, forms: Sequence[str]) -> str:
    """Return a text in which all occurrences of the forms are masked, overlapping ones together."""
    spans = sorted(
        (position, position + len(form)) for form in forms for position in _occurrences(text, form)
    )
    parts, end = [], 0
    for start, stop in spans:
        if start >= end:
            parts += [text[end:start], MASK]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def _occurrences(text: str, form: str) -> Iterator[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + 1)
