"""JSON that a repository, a volume or a server controls."""

import json
import re
from typing import Any

DEEPEST = 200
"""Levels of nesting; documents of models and of tools have fewer than 50. The parser of Python is
recursive: near its limit, it fails in code that has nothing to do with the document, such as a
callback of the garbage collector."""
_START = re.compile(r"\s*+[\[{]")
_TOKEN = re.compile(r'[\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
"""A bracket or a whole string; brackets in strings do not count. It never tries a string twice."""


class NestedTooDeeply(ValueError):
    """A text is nested more deeply than ``DEEPEST`` levels."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raise ValueError also if it is nested too deeply."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(text)
    return json.loads(text)


def check_depth(text: str, start: int = 0) -> None:
    """Raise NestedTooDeeply if the value at a position of a text is. The text may be cut off."""
    if _START.match(text, start) is None:
        return
    depth = 0
    for token in _TOKEN.finditer(text, start):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
                if depth > DEEPEST:
                    raise NestedTooDeeply
            case "]" | "}":
                depth -= 1
                if depth == 0:
                    return
