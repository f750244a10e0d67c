"""Declare fields of the API: description, default, bounds, and the effect of changing the field.

The pydantic default of a field is its built-in value. It never reaches the CRD's schema: the API
server applies schema defaults to stored objects on read, so a new default would change every
stored spec. ``crd.openapi`` writes the built-in value into the description instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

from finetune_api.base import CamelModel
from finetune_api.rules import Rule


class Edit(StrEnum):
    """The effect of changing a field of a job. The value is the sentence in its description."""

    RETRAIN = "Changing this field trains a new revision."
    REMERGE = "Changing this field repeats the merge, but not the training."
    ROLL = "Changing this field replaces the serving pods in a rollout."
    RETRY = "Changing this field retries a failed stage, but does not retrain a completed revision."
    PUBLISH = "Changing this field publishes the model again, but repeats no other stage."
    NEXT_REVISION = "A change takes effect with the next revision."
    PROFILE = "A change has the effect of changing every value that is then filled in differently."
    FIXED = "This field cannot be changed: create another object with the new value."
    NOTHING = "A change takes effect immediately. Completed work is not repeated."


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What ``field`` records about a field, stored where pydantic keeps a field's own data."""

    text: str
    edit: Edit
    builtin: str | None
    unset: str | None
    rules: tuple[Rule, ...]
    key: str | None = None
    """Field that identifies an entry of a list of groups."""
    former: Any = None
    """Built-in value of the field before it had none. Digests have it if the field is unset."""

    @property
    def meaning(self) -> str:
        """The description without default and effect, with the behavior if the field is unset."""
        return self.text if self.unset is None else f"{self.text} If unset, {self.unset}."

    def __call__(self, schema: dict[str, Any]) -> None:
        """Add nothing to pydantic's own JSON schema; ``crd.openapi`` writes the schema."""


def field(
    text: str,
    default: Any = ...,
    *,
    edit: Edit,
    builtin: str | None = None,
    unset: str | None = None,
    rules: tuple[Rule, ...] = (),
    key: str | None = None,
    former: Any = None,
    **bounds: Any,
) -> Any:
    """Declare a field of the API.

    ``builtin`` describes the built-in value in words if the default does not speak for itself.
    ``unset`` completes the sentence "If unset, …"; a field without a built-in value has it instead.
    ``key`` is the field that identifies an entry of a list of groups. ``former`` is the built-in
    value that a field had when its revisions were first released: unset, the field is hashed as it.
    ``bounds`` are pydantic's (``ge``, ``lt``, ``max_length`` and so on).
    """
    extra = Extra(
        text=text, edit=edit, builtin=builtin, unset=unset, rules=rules, key=key, former=former
    )
    if default is ...:
        return Field(json_schema_extra=extra, **bounds)
    return Field(default, json_schema_extra=extra, **bounds)


WITHOUT_RULES = {"rules": False}
"""Context of a validation that checks types and bounds only."""


class ApiModel(CamelModel):
    """A group of fields. ``atomic`` groups are replaced as a whole when values are layered."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    atomic: ClassVar[bool] = False

    @model_validator(mode="after")
    def _require_valid(self, info: ValidationInfo) -> Self:
        if info.context != WITHOUT_RULES:
            for rule in self.broken_rules():
                raise ValueError(rule.message)
        return self

    def broken_rules(self) -> Iterator[Rule]:
        """Yield the rules of this model and of its fields that its values break."""
        yield from (rule for rule in type(self).rules if rule.fails(self))
        written = self.model_fields_set
        for name, info in type(self).model_fields.items():
            if name not in written or (value := getattr(self, name)) is None:
                continue
            for rule in extra_of(info).rules:
                yield from (rule for _ in rule.broken(value))


def extra_of(info: FieldInfo) -> Extra:
    """Return what ``field`` recorded about a field. Raise TypeError for any other field."""
    extra = info.json_schema_extra
    if not isinstance(extra, Extra):
        raise TypeError(f"declare this field with field(): {info!r}")
    return extra
