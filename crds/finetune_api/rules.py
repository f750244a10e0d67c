"""Validation rules of the API: each one in CEL for the API server and in Python.

The API server runs the CEL on the spec as it was written. Python runs the same rule on the spec
after defaulting, so that a value from the chart defaults is validated too. The constructors here
build both sides from one description; the differential test compares them on a real API server.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import BaseModel

LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
NONEMPTY_LABEL_VALUE = r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of a model or of a field.

    ``cel`` is true for a valid value. ``fails`` returns True for an invalid one; its argument is
    the validated model (for a rule of a model) or the value (for a rule of a field). With
    ``items``, the value of the field is a list, and the rule is about each of its items: an error
    then names the item.
    """

    cel: str
    message: str
    fails: Callable[[Any], bool]
    items: bool = False

    def broken(self, value: Any) -> Iterator[tuple[int, ...]]:
        """Yield the place of each violation: the index of the item, or () for the whole value."""
        if self.items:
            yield from ((index,) for index, item in enumerate(value) if self.fails(item))
        elif self.fails(value):
            yield ()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement about the fields of a model, in CEL and in Python."""

    cel: str
    holds: Callable[[Any], bool]

    def __and__(self, other: "Statement") -> "Statement":
        """Return the statement that both hold."""
        return Statement(
            cel=f"({self.cel} && {other.cel})",
            holds=lambda model: self.holds(model) and other.holds(model),
        )

    def __or__(self, other: "Statement") -> "Statement":
        """Return the statement that at least one of the two holds."""
        return Statement(
            cel=f"({self.cel} || {other.cel})",
            holds=lambda model: self.holds(model) or other.holds(model),
        )

    def __invert__(self) -> "Statement":
        """Return the statement that this one does not hold."""
        return Statement(cel=f"!({self.cel})", holds=lambda model: not self.holds(model))


def is_set(path: str) -> Statement:
    """Return the statement that a field is set. path: in camelCase, such as ``lora.useDora``."""
    return Statement(cel=f"({_has(path)})", holds=lambda model: _written(model, path))


def some_set(path: str, field: str) -> Statement:
    """Return the statement that a list is set and at least one of its groups sets a field."""
    statement = is_set(field)
    return Statement(
        cel=f"({_has(path)} && self.{path}.exists(item, has(item.{field})))",
        holds=lambda model: any(statement.holds(group) for group in _value(model, path) or ()),
    )


def equals(path: str, value: str | bool | float) -> Statement:
    """Return the statement that a field has a value.

    CEL sees the written value, Python the value after defaulting.
    """
    return Statement(
        cel=f"({_has(path)} && self.{path} == {literal(value)})",
        holds=lambda model: _value(model, path) == value,
    )


def contains(path: str, item: str) -> Statement:
    """Return the statement that a list of strings is set and contains ``item``."""
    return Statement(
        cel=f"({_has(path)} && {literal(item)} in self.{path})",
        holds=lambda model: item in (_value(model, path) or ()),
    )


def starts_with(path: str, *prefixes: str) -> Statement:
    """Return the statement that a required string begins with one of the prefixes."""
    return Statement(
        cel="(" + " || ".join(f"self.{path}.startsWith('{prefix}')" for prefix in prefixes) + ")",
        holds=lambda model: str(_value(model, path)).startswith(prefixes),
    )


def excludes(first: Statement, second: Statement, message: str) -> Rule:
    """Return the rule that two statements do not hold together."""
    return Rule(
        cel=f"!({first.cel} && {second.cel})",
        message=message,
        fails=lambda model: first.holds(model) and second.holds(model),
    )


def requires(first: Statement, second: Statement, message: str) -> Rule:
    """Return the rule that the second statement holds if the first one does."""
    return Rule(
        cel=f"!{first.cel} || {second.cel}",
        message=message,
        fails=lambda model: first.holds(model) and not second.holds(model),
    )


def matches(pattern: str, message: str) -> Rule:
    """Return the rule that a string matches ``pattern``, in RE2's and Python's common syntax.

    pattern: with ``^`` and ``$`` around each alternative.
    """
    compiled = re.compile(pattern)
    return Rule(
        cel=f"self.matches({literal(pattern)})",
        message=message,
        # Python's $ also matches before a trailing newline; fullmatch does not.
        fails=lambda value: compiled.fullmatch(value) is None,
    )


def each_matches(pattern: str, message: str) -> Rule:
    """Return the rule that every item of a list of strings matches ``pattern``."""
    return replace(matches(pattern, message), items=True)


def lacks(item: str, message: str) -> Rule:
    """Return the rule that a list of strings does not contain ``item``."""
    return Rule(
        cel=f"!({literal(item)} in self)", message=message, fails=lambda items: item in items
    )


def unique(name: str) -> Rule:
    """Return the rule that a list of strings has no duplicates. name: of the field."""
    return Rule(
        cel="self.all(one, self.exists_one(other, other == one))",
        message=f"{name} contains the same name twice: remove the duplicate",
        fails=lambda items: len(set(items)) < len(items),
    )


def unique_by(key: str, message: str) -> Rule:
    """Return the rule that no two groups of a list have the same value in the field ``key``."""
    return Rule(
        cel=f"self.all(one, self.exists_one(other, other.{key} == one.{key}))",
        message=message,
        fails=lambda groups: len({_value(group, key) for group in groups}) < len(groups),
    )


def at_most_one_sets(paths: tuple[str, ...], message: str) -> Rule:
    """Return the rule that at most one group of a list sets each of some fields."""
    statements = [is_set(path) for path in paths]
    return Rule(
        cel=" && ".join(f"size(self.filter(item, has(item.{path}))) <= 1" for path in paths),
        message=message,
        fails=lambda groups: any(
            sum(statement.holds(group) for group in groups) > 1 for statement in statements
        ),
    )


def labels(message: str) -> Rule:
    """Return the rule that a map holds valid Kubernetes labels."""
    key, value = re.compile(LABEL_KEY), re.compile(LABEL_VALUE)
    return Rule(
        cel=f"self.all(k, k.matches({literal(LABEL_KEY)}) "
        f"&& self[k].matches({literal(LABEL_VALUE)}))",
        message=message,
        fails=lambda mapping: any(
            key.fullmatch(k) is None or value.fullmatch(v) is None for k, v in mapping.items()
        ),
    )


def between(low: float, high: float, message: str) -> Rule:
    """Return the rule that a number lies between two bounds, at least one of them a fraction.

    The schema's own ``minimum`` and ``maximum`` do not work here: the API server rounds a
    fractional bound down if the value is a whole number, so that 0 would pass a minimum of 0.1.
    """
    return Rule(
        cel=f"self >= {float(low)} && self <= {float(high)}",
        message=message,
        fails=lambda value: not low <= value <= high,
    )


def _has(path: str) -> str:
    """Return the CEL that a field and all groups around it are set."""
    steps = path.split(".")
    return " && ".join(f"has(self.{'.'.join(steps[:depth])})" for depth in range(1, len(steps) + 1))


def literal(value: str | bool | float) -> str:
    """Return a value as a CEL literal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def _written(model: Any, path: str) -> bool:
    for alias in path.split("."):
        name = _name_of(model.__class__, alias)
        if name not in model.model_fields_set:
            return False
        model = getattr(model, name)
        if model is None:
            return False
    return True


def _value(model: Any, path: str) -> Any:
    for alias in path.split("."):
        if model is None:
            return None
        model = getattr(model, _name_of(model.__class__, alias))
    return model


@cache
def _name_of(model: type[BaseModel], alias: str) -> str:
    """Return the Python name of a field. Raise LookupError if the model has no such field."""
    for name, info in model.model_fields.items():
        if info.alias == alias:
            return name
    raise LookupError(f"{model.__name__} has no field {alias}")
