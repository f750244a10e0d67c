"""Read the documented values of a chart from its values.yaml.

``## Title`` starts a section. The comment directly above a key describes the key; indented lines in
it are an example. A mapping is documented by its own comment if none of its keys has a comment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import yaml

HEADING = "## "


class UndocumentedValue(Exception):
    """A value without a comment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """One documented value. ``default`` is None for a mapping whose keys are documented."""

    section: str
    path: str
    description: str
    example: tuple[str, ...]
    default: str | None


def parse(text: str) -> list[Value]:
    """Return the values in the order of the file. Raises UndocumentedValue."""
    reader = _Reader(text.splitlines())
    return list(reader.values(yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)))


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def values(self, node: yaml.Node | None, data: Any, path: str = "") -> Iterator[Value]:
        assert isinstance(node, yaml.MappingNode)
        for key_node, inner in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line
            comment = self._comment(line)
            nested = self._has_comments(inner)
            if comment:
                example = tuple(text[2:] for text in comment if text.startswith("  "))
                yield Value(
                    section=self._section(line),
                    path=path + key,
                    description=" ".join(text for text in comment if not text.startswith("  ")),
                    example=example,
                    default=None if nested else _flow(data[key]),
                )
            if nested:
                yield from self.values(inner, data[key], f"{path}{key}.")
            elif not comment:
                raise UndocumentedValue(
                    f"{path}{key} in line {line + 1} has no comment: add one directly above it"
                )

    def _has_comments(self, node: yaml.Node) -> bool:
        # A mapping in braces shares its line, and so its comment, with its keys.
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return False
        return any(
            self._comment(key.start_mark.line) or self._has_comments(value)
            for key, value in node.value
        )

    def _comment(self, line: int) -> list[str]:
        """Return the lines of the comment that ends directly above a line, without the ``# ``."""
        comment: list[str] = []
        for text in reversed(self._lines[:line]):
            stripped = text.lstrip()
            if not stripped.startswith("#") or stripped.startswith(HEADING):
                break
            comment.insert(0, stripped[2:])
        return comment

    def _section(self, line: int) -> str:
        titles = [text for text in self._lines[:line] if text.startswith(HEADING)]
        return titles[-1].removeprefix(HEADING) if titles else ""


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return '""' if value == "" else text.removesuffix("...\n").strip()
