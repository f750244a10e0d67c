"""Base models: camelCase in JSON and YAML, snake_case in Python."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class CamelModel(BaseModel):
    """An immutable group of values. Unknown names are an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class LedgerModel(CamelModel):
    """A group of fields of the ledger. To ignore unknown ones would drop them at the next write."""


class StatusModel(CamelModel):
    """A group of status fields. Unknown ones, written by a newer operator, are ignored."""

    model_config = ConfigDict(extra="ignore")


Values = dict[str, Any]
"""Nested values in the form of a spec: camelCase keys, JSON types."""
