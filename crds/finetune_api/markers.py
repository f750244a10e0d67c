"""How a field of the API is declared: its text, its bounds, and what an edit of it does.

The pydantic default of a field *is* its built-in value; it never reaches the CRD's schema, because
the API server applies schema defaults to stored objects on read, and a new default would change
every spec of a fleet. ``schema`` writes the built-in value into the description instead.

A cross-field condition is a ``Rule``: the CEL that the API server runs and the same condition in
Python, side by side, so that a spec completed by an administrator's defaults is held to it too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from finetune_api.base import CamelModel


class Edit(StrEnum):
    """What changing a field of a job does, and the sentence that says so."""

    RETRAIN = "An edit starts a new revision, which trains again."
    REMERGE = "An edit merges again, without training again."
    ROLL = "An edit rolls the serving pods, without training or merging again."
    RETRY = "An edit never trains a finished revision again; it gives a failed stage a new attempt."
    NOTHING = "An edit repeats nothing that is finished; it counts from then on."


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition of the API, once in CEL for the API server and once in Python.

    ``fails`` returns True where ``cel`` would be false; it gets the validated model (for a rule of
    a model) or the value (for a rule of a field).
    """

    cel: str
    message: str
    fails: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What ``field`` records about a field, kept where pydantic keeps a field's own data."""

    text: str
    edit: Edit
    builtin: str | None
    rules: tuple[Rule, ...]

    def __call__(self, schema: dict[str, Any]) -> None:
        """Add nothing to pydantic's own JSON schema; ``schema.schema_of`` does the writing."""


def matches(pattern: str, message: str) -> Rule:
    """Return the rule that a string matches ``pattern``, in RE2's and Python's common syntax.

    pattern: with ``^`` and ``$`` around each alternative.
    """
    compiled = re.compile(pattern)
    return Rule(
        cel=f"self.matches({_quoted(pattern)})",
        message=message,
        # Python's $ would let a line end pass.
        fails=lambda value: compiled.fullmatch(value) is None,
    )


LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"


def labels(message: str) -> Rule:
    """Return the rule that a map holds labels as Kubernetes takes them."""
    key, value = re.compile(LABEL_KEY), re.compile(LABEL_VALUE)
    return Rule(
        cel=f"self.all(k, k.matches({_quoted(LABEL_KEY)}) "
        f"&& self[k].matches({_quoted(LABEL_VALUE)}))",
        message=message,
        fails=lambda found: any(
            key.fullmatch(k) is None or value.fullmatch(v) is None for k, v in found.items()
        ),
    )


def no_twice(what: str) -> Rule:
    """Return the rule that a list of strings holds none twice; ``what`` is the field."""
    return Rule(
        cel="self.all(one, self.exists_one(other, other == one))",
        message=f"{what} holds a name twice: remove one of them",
        fails=lambda names: len(set(names)) < len(names),
    )


def between(low: float, high: float, message: str) -> Rule:
    """Return the rule that a number lies between two bounds, of which one is a fraction.

    Not bounds of the schema: the API server rounds those down where the value is a whole number,
    so that 0 passes for at least 0.1.
    """
    return Rule(
        cel=f"self >= {float(low)} && self <= {float(high)}",
        message=message,
        fails=lambda value: not low <= value <= high,
    )


def _quoted(pattern: str) -> str:
    """Return a pattern as a CEL string."""
    escaped = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def field(
    text: str,
    default: Any = ...,
    *,
    edit: Edit,
    builtin: str | None = None,
    rules: tuple[Rule, ...] = (),
    **bounds: Any,
) -> Any:
    """Declare a field of the API.

    ``builtin`` is the built-in value in words, where the default does not speak for itself.
    ``bounds`` are pydantic's (``ge``, ``lt``, ``max_length`` and so on).
    """
    extra = Extra(text=text, edit=edit, builtin=builtin, rules=rules)
    if default is ...:
        return Field(json_schema_extra=extra, **bounds)
    return Field(default, json_schema_extra=extra, **bounds)


class ApiModel(CamelModel):
    """A group of fields. ``atomic`` groups are replaced as a whole when values are layered."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    atomic: ClassVar[bool] = False

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        for rule in self.broken_rules():
            raise ValueError(rule.message)
        return self

    def broken_rules(self) -> Iterator[Rule]:
        """Yield the rules of this model, and of its fields, that its present values break."""
        yield from (rule for rule in type(self).rules if rule.fails(self))
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.model_fields_set and value is not None:
                yield from (rule for rule in extra_of(info).rules if rule.fails(value))


def extra_of(info: FieldInfo) -> Extra:
    """Return what ``field`` recorded about a field."""
    extra = info.json_schema_extra
    if not isinstance(extra, Extra):
        raise TypeError(f"declare this field with field(): {info!r}")
    return extra
