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
    entries = (f'{inner}"{key}": {_json(each, indent=indent + 2)}' for key, each in value.items())
    return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"


def partial(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a partial value, from a structural OpenAPI schema."""
    found: dict[str, Any] = {}
    if "anyOf" in schema:
        found["type"] = [each["type"] for each in schema["anyOf"]] + ["null"]
    elif "type" in schema:
        found["type"] = [schema["type"], "null"]
    found |= {key: schema[key] for key in CONSTRAINTS if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        # The pattern of the CRD is looser, because a CEL rule follows it.
        found["pattern"] = QUANTITY
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive):
            # A number in JSON Schema, a flag in OpenAPI 3.0.
            found[exclusive] = found.pop(bound)
    if "properties" in schema:
        found["additionalProperties"] = False
        found["properties"] = {name: partial(each) for name, each in schema["properties"].items()}
    if "additionalProperties" in schema:
        found["additionalProperties"] = partial(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = partial(schema["items"])
    return found
