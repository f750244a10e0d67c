"""Messages of Helm about values that violate the schema. Helm 3.18 has another validator."""

import re

from tests.support.helm import version

CHANGED = (3, 18)
BEFORE = (
    (r"additional properties '(\w+)'.*", r"Additional property \1 is not allowed"),
    (r"missing property '(\w+)'", r"\1 is required"),
    (r"at '.+': 'not' failed", "Must not validate the schema (not)"),
    (r"minimum: got \d+, want (\d+)", r"Must be greater than or equal to \1"),
    (r"exclusiveMinimum: got \d+, want (\d+)", r"Must be greater than \1"),
    (r"minItems: got \d+, want (\d+)", r"Array must have at least \1 items"),
    (r"maxItems: got \d+, want (\d+)", r"Array must have at most \1 items"),
    (r"got number, want (\w+)", r"Invalid type. Expected: \1, given: integer"),
    (r"got (\w+), want null or (\w+)", r"Invalid type. Expected: [\2,null], given: \1"),
    (r"got (\w+), want (\w+)", r"Invalid type. Expected: \2, given: \1"),
    (r"items at (\d) and (\d) are equal", r"array items[\1,\2] must be unique"),
    (r"does not match pattern", "Does not match pattern"),
    (r"value must be one of(.*)", r"must be one of the following:\1"),
)
"""Patterns of messages since that version, and the earlier messages."""


def printed(message: str) -> str:
    """Return the message of this version of Helm. message: that of the newest version."""
    if version() >= CHANGED:
        return message
    for pattern, before in BEFORE:
        if found := re.fullmatch(pattern, message):
            return found.expand(before).replace("'", '"')
    raise ValueError(f"the message of earlier versions is unknown: {message}")
