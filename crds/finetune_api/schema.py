"""pydantic models → a structural OpenAPI v3 schema, as a CustomResourceDefinition needs it.

References are inlined, ``null`` alternatives and defaults removed, bounds written in OpenAPI 3.0's
way, and each description completed with the built-in value and with what an edit does.
"""

from typing import Any, get_args

from pydantic import BaseModel

from finetune_api.fields import ApiModel, Extra, Rule, extra_of

Schema = dict[str, Any]

_KEPT = (
    "type",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
_MAX_ITEM_LENGTH = 253


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the structural schema of ``model``, with CEL rules and full descriptions."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _object(model, raw, raw.get("$defs", {}))


def _object(model: type[BaseModel], raw: Schema, definitions: Schema) -> Schema:
    properties = {}
    for name, info in model.model_fields.items():
        alias = info.alias or name
        nested = _model_in(info.annotation)
        schema = _value(raw["properties"][alias], nested, definitions)
        if issubclass(model, ApiModel):
            extra = extra_of(info)
            schema["description"] = _description(extra, info.default, group=nested is not None)
            _add_rules(schema, extra.rules)
        else:
            schema["description"] = info.description
        properties[alias] = schema
    schema = {"type": "object", "properties": properties}
    if raw.get("required"):
        schema["required"] = list(raw["required"])
    if issubclass(model, ApiModel):
        _add_rules(schema, model.rules)
    return schema


def _value(raw: Schema, nested: type[BaseModel] | None, definitions: Schema) -> Schema:
    raw = _without_null(raw)
    if "$ref" in raw:
        raw = {**definitions[raw["$ref"].rsplit("/", 1)[-1]], **raw}
        if nested is not None and raw.get("type") == "object":
            return _object(nested, raw, definitions)
    schema = {key: raw[key] for key in _KEPT if key in raw}
    if "const" in raw:
        schema["enum"] = [raw["const"]]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in raw:
            schema |= {bound: raw[exclusive], exclusive: True}
    if schema.get("x-kubernetes-int-or-string"):
        del schema["type"]
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if "items" in raw:
        schema["items"] = _bounded(_value(raw["items"], nested, definitions))
    if isinstance(raw.get("additionalProperties"), dict):
        schema["additionalProperties"] = _bounded(
            _value(raw["additionalProperties"], nested, definitions)
        )
    return schema


def _bounded(schema: Schema) -> Schema:
    """Bound the strings in lists and maps: CEL's cost is estimated from their largest size."""
    if schema.get("type") == "string" and "enum" not in schema:
        schema.setdefault("maxLength", _MAX_ITEM_LENGTH)
    return schema


def _without_null(raw: Schema) -> Schema:
    if "anyOf" not in raw:
        return raw
    (kept,) = [option for option in raw["anyOf"] if option.get("type") != "null"]
    return {**kept, **{key: value for key, value in raw.items() if key != "anyOf"}}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, inside a list or an option as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _description(extra: Extra, default: Any, *, group: bool) -> str:
    parts = [extra.text]
    if extra.builtin is not None:
        parts.append(f"Built-in value: {extra.builtin}.")
    elif not group and isinstance(default, str | int | float | list):
        parts.append(f"Built-in value: {_text(default)}.")
    if not group:
        parts.append(str(extra.edit))
    return " ".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else str(value)


def _add_rules(schema: Schema, rules: tuple[Rule, ...]) -> None:
    if rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": rule.message} for rule in rules
        ]
