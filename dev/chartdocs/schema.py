"""The JSON schema of the chart value ``defaults``: a partial spec of a FineTuneJob.

It is the schema of the CRD in the terms of JSON Schema: no field is required, unknown fields are
rejected, and ``null`` is allowed, which removes a default. CEL rules have no counterpart; the
operator checks them when it starts.
"""

from __future__ import annotations

import json
from typing import Any

from finetune_api.crd.openapi import CONSTRAINTS, schema_of
from finetune_api.v1alpha1.spec import FineTuneJobSpec

BEGIN = '\n    "fineTuneJobSpec": '
END = "\n  }\n}\n"
LINE = 100
QUANTITY = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTP]|[KMGTP]i)?$"
"""As ``finetune_api.quantity`` reads quantities."""


def with_schema(text: str) -> str:
    """Return a values schema with the schema of ``defaults`` as its last definition.

    Raise ValueError if the text has no such definition.
    """
    before, begin, rest = text.partition(BEGIN)
    if not begin or not rest.endswith(END):
        raise ValueError(f"the last definition must be {BEGIN.strip()}")
    schema = partial(schema_of(FineTuneJobSpec)) | {"type": "object"}
    # An annotation of a profile makes it the default.
    del schema["properties"]["profile"]
    return before + begin + _json(schema, indent=4) + END


def _json(value: Any, *, indent: int) -> str:
    """Return JSON in which each value stands in one line if it is short."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or indent + len(line) <= LINE:
        return line
    inner = " " * (indent + 2)
    entries = (
        f'{inner}"{key}": {_json(member, indent=indent + 2)}' for key, member in value.items()
    )
    return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"


def partial(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a partial value, from a structural OpenAPI schema."""
    json_schema: dict[str, Any] = {}
    if "anyOf" in schema:
        json_schema["type"] = [subschema["type"] for subschema in schema["anyOf"]] + ["null"]
    elif "type" in schema:
        json_schema["type"] = [schema["type"], "null"]
    json_schema |= {key: schema[key] for key in CONSTRAINTS if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        # The pattern of the CRD is looser, because a CEL rule follows it.
        json_schema["pattern"] = QUANTITY
    if "enum" in json_schema:
        json_schema["enum"] = [*json_schema["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive):
            # A number in JSON Schema, a flag in OpenAPI 3.0.
            json_schema[exclusive] = json_schema.pop(bound)
    if "properties" in schema:
        json_schema["additionalProperties"] = False
        json_schema["properties"] = {
            name: partial(subschema) for name, subschema in schema["properties"].items()
        }
    if "additionalProperties" in schema:
        json_schema["additionalProperties"] = partial(schema["additionalProperties"])
    if "items" in schema:
        json_schema["items"] = partial(schema["items"])
    return json_schema
