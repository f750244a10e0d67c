"""The events of a stream, on their way from vLLM to the caller. Pure.

Events are passed on as bytes: parsing each would cost more than all the rest of the gate. Two
things change. The internal name of the adapter becomes the public one; no caller and no model knows
an internal name, so it occurs in no other place. The event with the number of tokens, which the
gate always asks vLLM for, is removed unless the caller asked for it too.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from finetune_api.safety import untrusted_json

END = b"\n\n"
USAGE = b'"usage":{'
"""Begins the numbers in an event. Quotation marks in a text of the model are escaped."""
LONGEST = 1 << 16
"""Bytes of an event, at most."""
_USAGE = re.compile(rb'"usage":\s*(\{)')
LONGEST_USAGE = 1 << 12
"""Bytes of the numbers in an answer, at most."""


class TooLong(Exception):
    """An event of vLLM is longer than the gate holds."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Numbers of tokens of a request."""

    prompt: int = 0
    completion: int = 0


class Events:
    """The stream of one request. ``tokens``: known at its end."""

    def __init__(self, *, internal: str, public: str, show_usage: bool) -> None:
        self.tokens = Tokens()
        self._internal = internal.encode()
        # As in JSON, without the quotation marks.
        self._public = json.dumps(public)[1:-1].encode()
        self._show_usage = show_usage
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of vLLM, and return the complete events for the caller. Raise TooLong."""
        data = self._rest + data if self._rest else data
        end = data.rfind(END) + len(END)
        if end < len(END):
            end = 0
        self._rest = data[end:]
        if len(self._rest) > LONGEST:
            raise TooLong
        complete = data[:end]
        if USAGE in complete:
            complete = END.join(event for event in complete.split(END) if self._is_shown(event))
        return complete.replace(self._internal, self._public)

    @property
    def is_complete(self) -> bool:
        """Whether the stream does not end within an event."""
        return not self._rest

    def _is_shown(self, event: bytes) -> bool:
        if USAGE not in event:
            return True
        chunk = untrusted_json.parse(event.partition(b":")[2])
        self.tokens = tokens(chunk)
        return self._show_usage or bool(chunk.get("choices"))


def tokens_of(answer: bytes) -> Tokens:
    """Return the numbers of tokens in an answer that is no stream.

    Only they are parsed: log-probabilities make an answer long, and everybody waits meanwhile.
    """
    starts = [usage.start(1) for usage in _USAGE.finditer(answer)]
    if not starts:
        return Tokens()
    text = answer[starts[-1] : starts[-1] + LONGEST_USAGE].decode(errors="replace")
    try:
        usage, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return Tokens()
    return tokens({"usage": usage})


def tokens(answer: Any) -> Tokens:
    """Return the numbers of tokens in an answer or event of vLLM."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return Tokens()
    return Tokens(
        prompt=int(usage.get("prompt_tokens") or 0),
        completion=int(usage.get("completion_tokens") or 0),
    )
