"""YAML that a repository controls, read in time and memory that its size bounds.

Only the structure is built: lists, mappings and texts. Tags have no effect, merge keys are ordinary
keys, and an alias is the value of its anchor, which is not copied.
"""

from typing import Any

import yaml

MOST_BYTES = 2 << 20
MOST_DEPTH = 32
MOST_ALIASES = 64
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = ("", "~", "null", "Null", "NULL")


def parse(text: str) -> Any:
    """Return the value of a YAML document; None if it is empty. Raises ValueError."""
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        return _Builder().built(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


class _Builder:
    """Builds a value from the events of a document, without recursion."""

    def __init__(self) -> None:
        self._open: list[tuple[list[Any], str | None]] = [([], None)]
        """The values of the collections that have begun, and their anchors."""
        self._anchored: dict[str, Any] = {}
        self._aliases = 0

    def built(self, text: str) -> Any:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                if len(self._open) > MOST_DEPTH:
                    raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
                self._open.append(([], event.anchor))
            elif isinstance(event, yaml.CollectionEndEvent):
                values, anchor = self._open.pop()
                of_mapping = isinstance(event, yaml.MappingEndEvent)
                self._add(_mapping(values) if of_mapping else values, anchor)
            elif isinstance(event, yaml.ScalarEvent):
                is_null = event.style is None and event.value in _NULLS
                self._add(None if is_null else event.value, event.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._add(self._value_of(event.anchor), None)
        ((values, _),) = self._open
        if len(values) > 1:
            raise ValueError("it has more than one document")
        return values[0] if values else None

    def _add(self, value: Any, anchor: str | None) -> None:
        self._open[-1][0].append(value)
        if anchor is not None:
            self._anchored[anchor] = value

    def _value_of(self, anchor: str | None) -> Any:
        self._aliases += 1
        if self._aliases > MOST_ALIASES:
            raise ValueError(f"it has more than {MOST_ALIASES} aliases")
        if anchor is None or anchor not in self._anchored:
            # Also an alias inside of its own anchor, whose value would contain itself.
            raise ValueError(f"the alias {anchor!r} has no complete anchor before it")
        return self._anchored[anchor]


def _mapping(values: list[Any]) -> dict[str, Any]:
    """Return a mapping. values: its keys and values by turns."""
    keys = ["null" if key is None else key for key in values[::2]]
    for key in keys:
        if not isinstance(key, str):
            raise ValueError("a key is a list or a mapping")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is set twice")
    return dict(zip(keys, values[1::2], strict=True))
