"""HTML that is built from elements, so that no text can become markup.

A child is an element, or text, which is escaped. Control characters, among them those that change
the direction of a text, are shown as escapes. An address is a ``Url`` of this application, so that
no value of a cluster becomes one. Scripts, styles and event handlers cannot be written in a page.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any, Union
from urllib.parse import quote, urlencode

from finetune_api.safety.printable import escaped

Child = Union["Element", str, int, float, None, Iterable["Child"]]
ADDRESSES = frozenset(("action", "data-stream", "href", "src"))
"""Attributes with an address; every other attribute is text."""
EMPTY = frozenset(("br", "img", "input", "link", "meta"))
"""Elements without an end tag."""
WITHOUT_TEXT = frozenset(("script", "style"))
"""Elements whose text a browser does not unescape: they have none."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


@dataclass(frozen=True)
class Url:
    """An address of this application: the segments of its path, its query and its fragment."""

    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...] = ()
    fragment: str = ""

    def text(self, prefix: str) -> str:
        """Return the address. prefix: path of the application, without a slash at its end."""
        path = "/".join(quote(segment, safe="") for segment in self.segments)
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{prefix}/{path}{query}" + (f"#{quote(self.fragment)}" if self.fragment else "")


def url(*segments: str, fragment: str = "", **query: str | None) -> Url:
    """Return an address. Values of the query that are empty or None are left out."""
    given = tuple((name, value) for name, value in query.items() if value)
    return Url(segments, given, fragment)


@dataclass(frozen=True)
class Element:
    """An element with attributes and children."""

    tag: str
    attributes: tuple[tuple[str, Any], ...]
    children: tuple[Child, ...]


def h(tag: str, *children: Child, **attributes: Any) -> Element:
    """Return an element. In names of attributes, ``_`` is ``-``; ``class_`` and ``for_`` exist.

    An attribute that is None or False is left out; True has no value. Raises ValueError or
    TypeError for an element that could run code.
    """
    named = tuple(
        (name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in WITHOUT_TEXT and children:
        raise ValueError(f"{tag} has no text: write a file of static/")
    for name, value in named:
        if not _NAME.fullmatch(name) or name.startswith("on") or name in ("style", "srcdoc"):
            raise ValueError(f"an element has no attribute {name}")
        if (name in ADDRESSES) != isinstance(value, Url):
            raise TypeError(f"{name} takes {'a Url' if name in ADDRESSES else 'text'}")
    return Element(tag, named, children)


def render(child: Child, prefix: str = "") -> str:
    """Return the HTML of a child. prefix: path of the application."""
    parts: list[str] = []
    _write(child, prefix, parts)
    return "".join(parts)


def document(root: Element, prefix: str = "") -> str:
    """Return an HTML document."""
    return f"<!doctype html>\n{render(root, prefix)}\n"


def _write(child: Child, prefix: str, parts: list[str]) -> None:
    """Append the HTML of a child. Generators would pass each part through all levels."""
    if child is None:
        return
    if isinstance(child, Element):
        parts.append(f"<{child.tag}")
        for name, value in child.attributes:
            parts.append(f" {name}" if value is True else f' {name}="{_value(value, prefix)}"')
        parts.append(">")
        if child.tag not in EMPTY:
            for inner in child.children:
                _write(inner, prefix, parts)
            parts.append(f"</{child.tag}>")
    elif isinstance(child, str | int | float):
        parts.append(_text(child))
    else:
        for inner in child:
            _write(inner, prefix, parts)


def _value(value: object, prefix: str) -> str:
    return escape(value.text(prefix)) if isinstance(value, Url) else _text(value)


def _text(value: object) -> str:
    return escape(escaped(str(value), keep="\n\t"))
