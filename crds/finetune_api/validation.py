"""Validate a manifest without a cluster, and list all its errors. Pure.

Types, bounds and rules are those of the CRD: the differential test compares them with a real API
server. A rule is checked only if the fields that it concerns have valid types; otherwise it could
report a consequence of another error.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_api import API_VERSION, GROUP
from finetune_api.base import Values
from finetune_api.crd.openapi import model_in
from finetune_api.crd.resource import Resource
from finetune_api.crd.resources import FINETUNEJOB, FINETUNEPROFILE, RESOURCES
from finetune_api.defaulting import InvalidSpec, builtin_defaults, effective_defaults, resolve
from finetune_api.layering import without_nulls
from finetune_api.markers import WITHOUT_RULES, ApiModel, extra_of
from finetune_api.policy.check import violations_of_defaults
from finetune_api.policy.limits import narrower
from finetune_api.profile_defaults import over_chart, own_defaults

Path = tuple[str | int, ...]
TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")
LONGEST_VALUE = 80
MESSAGES = {
    "missing": "is missing: set it",
    "literal_error": "set one of {expected}",
    "greater_than": "set a value greater than {gt}",
    "greater_than_equal": "set a value of at least {ge}",
    "less_than": "set a value less than {lt}",
    "less_than_equal": "set a value of at most {le}",
    "string_too_short": "set a text with at least {min_length} characters",
    "string_too_long": "set a text with at most {max_length} characters",
    "too_short": "set at least {min_length} entries, or remove the field",
    "too_long": "set at most {max_length} entries",
    "int_type": "set an integer",
    "float_type": "set a number",
    "bool_type": "set true or false",
    "string_type": "set a text, in quotes if it looks like a number",
    "list_type": "set a list",
    "dict_type": "set a map",
    "model_type": "set a group of fields",
}
"""Messages for pydantic's types of errors, with the names of pydantic's context."""
_OF_KIND = {resource.kind: resource for resource in RESOURCES}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An error of a manifest."""

    field: str
    """Path of the field, such as ``spec.training.epochs``."""
    message: str
    """What is wrong and how to fix it."""
    value: str = ""
    """The value as text; empty if the field has none, or holds a group of fields."""

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.field}: {self.message}" + (f" (value: {self.value})" if self.value else "")


def resource_of(document: Mapping[str, Any]) -> Resource | None:
    """Return the kind that a document is meant to have, of whatever version; None if not ours.

    A document of our API group with an unknown kind is meant to have the most similar kind.
    """
    group, kind = str(document.get("apiVersion")).split("/")[0], str(document.get("kind"))
    if group != GROUP:
        return _OF_KIND.get(kind)
    similar = difflib.get_close_matches(kind, _OF_KIND, n=1)
    return _OF_KIND[similar[0]] if similar else FINETUNEJOB


def is_job(document: Mapping[str, Any]) -> bool:
    """Report whether a document is meant to be a FineTuneJob, of whatever version."""
    return resource_of(document) is FINETUNEJOB


def findings(manifest: Mapping[str, Any]) -> list[Finding]:
    """Return the errors of an object of ours; an empty list for a valid one."""
    resource = resource_of(manifest) or FINETUNEJOB
    errors = [*_head(manifest, resource)]
    spec = manifest.get("spec")
    if spec is None:
        return [*errors, Finding(field="spec", message=MESSAGES["missing"])]
    if not isinstance(spec, Mapping):
        return [*errors, Finding(field="spec", message=MESSAGES["model_type"], value=_shown(spec))]
    written = without_nulls(spec)
    types = [*_types(resource.spec, written)]
    rules = [*_rules(resource.spec, written, (), [tuple(mistake["loc"]) for mistake in types])]
    errors += [_finding(resource.spec, error) for error in types] + rules
    if not types and not rules:
        errors += _unresolved(resource, written)
    if not errors and resource is FINETUNEPROFILE:
        errors += _against_limits(manifest["metadata"]["name"], written)
    return errors


def _head(manifest: Mapping[str, Any], resource: Resource) -> Iterator[Finding]:
    for key, expected in (("apiVersion", API_VERSION), ("kind", resource.kind)):
        if manifest.get(key) != expected:
            yield Finding(field=key, message=f"set {expected}", value=_shown(manifest.get(key)))
    for key in manifest:
        if key not in TOP_LEVEL:
            yield Finding(field=str(key), message=_unknown(str(key), TOP_LEVEL))
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if name is None:
        yield Finding(field="metadata.name", message=MESSAGES["missing"])
    elif resource.name is not None and (not isinstance(name, str) or resource.name.fails(name)):
        yield Finding(field="metadata.name", message=resource.name.message, value=_shown(name))


def _unresolved(resource: Resource, written: Values) -> Iterator[Finding]:
    """Yield why the operator could not use a spec whose fields are valid."""
    try:
        if resource is FINETUNEJOB:
            resolve(written, builtin_defaults())
        elif resource is FINETUNEPROFILE:
            effective_defaults(own_defaults(written), strict=True)
    except InvalidSpec as error:
        # The message about a profile begins with the path of a field, such as defaults.training.
        path, _, message = str(error).partition(": ")
        if resource is FINETUNEPROFILE:
            yield Finding(field=f"spec.{path}", message=message)
        else:
            yield Finding(field="spec", message=str(error))


def _against_limits(name: str, profile: Values) -> Iterator[Finding]:
    """Yield why the operator could not use the limits of a profile, or its defaults with them."""
    try:
        limits = narrower(profile.get("limits") or {})
    except ValidationError as error:
        for mistake in error.errors():
            message = mistake["msg"].removeprefix("Value error, ")
            yield Finding(field=_dotted(("limits", *mistake["loc"])), message=message)
        return
    defaults = over_chart(own_defaults(profile), {})
    for message in violations_of_defaults(defaults, limits, profile=name):
        yield Finding(field="spec.defaults", message=message)


def _types(model: type[BaseModel], written: Values) -> list[ErrorDetails]:
    """Return the fields that are unknown or missing, or whose type or bounds are violated."""
    try:
        model.model_validate(written, strict=True, context=WITHOUT_RULES, by_name=False)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _rules(model: type[BaseModel], values: Any, at: Path, broken: list[Path]) -> Iterator[Finding]:
    """Yield the rules that a group of fields and the groups in it violate.

    broken: paths of the fields with a wrong type; the groups around them are left out.
    """
    if isinstance(values, list):
        for position, entry in enumerate(values):
            yield from _rules(model, entry, (*at, position), broken)
        return
    if not isinstance(values, Mapping) or not issubclass(model, ApiModel):
        return
    group = None
    if not _contains(at, broken):
        group = model.model_validate(values, strict=True, context=WITHOUT_RULES)
        for rule in model.rules:
            if rule.fails(group):
                yield Finding(field=_dotted(at), message=rule.message)
    for name, info in model.model_fields.items():
        inner, alias = model_in(info.annotation), info.alias or name
        if alias not in values:
            continue
        path = (*at, alias)
        if group is not None or (inner is None and not _contains(path, broken)):
            value = values[alias] if inner is None else getattr(group, name)
            for rule in extra_of(info).rules:
                for place in rule.broken(value):
                    shown = _shown(values[alias][place[0]] if place else values[alias])
                    yield Finding(field=_dotted(path + place), message=rule.message, value=shown)
        if inner is not None:
            yield from _rules(inner, values[alias], path, broken)


def _contains(at: Path, paths: list[Path]) -> bool:
    """Report whether one of the paths is the path ``at`` or below it."""
    return any(path[: len(at)] == at for path in paths)


def _finding(spec: type[BaseModel], error: ErrorDetails) -> Finding:
    path, value = tuple(error["loc"]), error["input"]
    if error["type"] == "extra_forbidden":
        fields = _fields_at(spec, path[:-1])
        return Finding(field=_dotted(path), message=_unknown(str(path[-1]), fields))
    template = MESSAGES.get(error["type"])
    message = (
        error["msg"].removeprefix("Value error, ")
        if template is None
        else template.format(**error.get("ctx", {}))
    )
    shown = "" if error["type"] == "missing" else _shown(value)
    return Finding(field=_dotted(path), message=message, value=shown)


def _unknown(name: str, fields: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f"unknown field: {f'did you mean {close[0]}?' if close else 'remove it'}"


def _fields_at(spec: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return the names of the fields of the group at a path of the spec."""
    model = spec
    for step in path:
        for name, info in model.model_fields.items():
            if step == (info.alias or name):
                model = model_in(info.annotation) or model
    return tuple(info.alias or name for name, info in model.model_fields.items())


def _dotted(path: Path) -> str:
    """Return a path in the spec as the API server writes it, such as ``spec.rows[0].name``."""
    return "spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
