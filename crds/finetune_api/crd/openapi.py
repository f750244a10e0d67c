"""Convert pydantic models to the structural OpenAPI v3 schema of a CustomResourceDefinition.

References are inlined, ``null`` alternatives and defaults are removed, bounds take the form of
OpenAPI 3.0, and each description ends with the default and the effect of changing the field.
"""

from typing import Any, get_args

from pydantic import BaseModel

from finetune_api.markers import ApiModel, Edit, Extra, extra_of
from finetune_api.rules import Rule

Schema = dict[str, Any]

CONSTRAINTS = (
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
"""Keywords that OpenAPI 3.0 and JSON Schema share."""
_KEPT = (
    "type",
    "format",
    *CONSTRAINTS,
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
_MAX_ITEM_LENGTH = 253


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the structural schema of ``model``, with CEL rules and complete descriptions."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _object(model, raw, raw.get("$defs", {}))


def _object(
    model: type[BaseModel], raw: Schema, definitions: Schema, edit: Edit | None = None
) -> Schema:
    """Return the schema of a model. edit: that of the field around it, if the model is atomic."""
    properties = {}
    for name, info in model.model_fields.items():
        alias = info.alias or name
        nested = model_in(info.annotation)
        if issubclass(model, ApiModel):
            extra = extra_of(info)
            own = edit or extra.edit
            schema = _value(raw["properties"][alias], nested, definitions, own)
            schema["description"] = _description(extra, info.default, own, group=nested is not None)
            if extra.key is not None:
                schema["x-kubernetes-list-type"] = "map"
                schema["x-kubernetes-list-map-keys"] = [extra.key]
            _add_rules(schema, extra.rules)
        else:
            schema = _value(raw["properties"][alias], nested, definitions)
            schema["description"] = info.description
        properties[alias] = schema
    schema = {"type": "object", "properties": properties}
    if raw.get("required"):
        schema["required"] = list(raw["required"])
    if issubclass(model, ApiModel):
        _add_rules(schema, model.rules)
    return schema


def _value(
    raw: Schema, nested: type[BaseModel] | None, definitions: Schema, edit: Edit | None = None
) -> Schema:
    raw = _without_null(raw)
    if "$ref" in raw:
        raw = {**definitions[raw["$ref"].rsplit("/", 1)[-1]], **raw}
        if nested is not None and raw.get("type") == "object":
            whole = issubclass(nested, ApiModel) and nested.atomic
            return _object(nested, raw, definitions, edit if whole else None)
    schema = {key: raw[key] for key in _KEPT if key in raw}
    if rules := raw.get("x-kubernetes-validations"):
        # A new list each time: PyYAML writes an alias for an object that it meets twice.
        schema["x-kubernetes-validations"] = [
            {"rule": rule["rule"], "message": rule["message"]} for rule in rules
        ]
    if "const" in raw:
        schema["enum"] = [raw["const"]]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in raw:
            schema |= {bound: raw[exclusive], exclusive: True}
    if schema.get("x-kubernetes-int-or-string"):
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if "items" in raw:
        items = _value(raw["items"], nested, definitions, edit)
        schema["items"] = _bounded(items, edit)
    if isinstance(raw.get("additionalProperties"), dict):
        values = _value(raw["additionalProperties"], nested, definitions, edit)
        schema["additionalProperties"] = _bounded(values, edit)
    return schema


def _bounded(schema: Schema, edit: Edit | None) -> Schema:
    """Bound the strings in lists and maps: the cost estimate of CEL assumes their largest size.

    Fields of the status, which have no ``edit``, are in no rule. A bound that the operator does not
    know would make the API server reject the whole status.
    """
    if edit is not None and schema.get("type") == "string" and "enum" not in schema:
        schema.setdefault("maxLength", _MAX_ITEM_LENGTH)
    return schema


def _without_null(raw: Schema) -> Schema:
    if "anyOf" not in raw:
        return raw
    (kept,) = [option for option in raw["anyOf"] if option.get("type") != "null"]
    return {**kept, **{key: value for key, value in raw.items() if key != "anyOf"}}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, also inside a list or an optional; None if none is."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := model_in(arg))), None)


def _description(extra: Extra, default: Any, edit: Edit, *, group: bool) -> str:
    parts = [extra.meaning]
    if extra.unset is None and (text := default_text(extra, default, group=group)) is not None:
        parts.append(f"Default: {text}.")
    if not group:
        parts.append(str(edit))
    return " ".join(parts)


def default_text(extra: Extra, default: Any, *, group: bool) -> str | None:
    """Return the default of a field as a description names it; None if the field has none.

    group: whether the field holds a group of fields, whose defaults are their own.
    """
    if extra.builtin is not None:
        return extra.builtin
    if isinstance(default, ApiModel) and default.atomic:
        return _text(default.model_dump(exclude_unset=True))
    if not group and isinstance(default, str | int | float | list):
        return _text(default)
    return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(part)}" for key, part in value.items()) + "}"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _add_rules(schema: Schema, rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        place = schema["items"] if rule.items else schema
        place.setdefault("x-kubernetes-validations", []).append(
            {"rule": rule.cel, "message": rule.message}
        )
