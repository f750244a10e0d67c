"""Base classes: camelCase in JSON and YAML, snake_case in Python; documented text values."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

SHA256 = r"^[0-9a-f]{64}$"
"""Pattern of a SHA-256 digest in hex."""
CONTENT_DIGEST = r"^(sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40})$"
"""Pattern of the digest of published content; a Git commit has a SHA-1."""
MAX_NUMBER = 2**53
"""Larger numbers are not exact in JSON, and the API server rejects a status that has them."""


class CamelModel(BaseModel):
    """An immutable group of values. Unknown names are an error.

    Python code constructs a model with snake_case names. What a user writes has camelCase names
    only: validate it with ``by_name=False``, so that a name in snake_case is unknown.
    """

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


class DocumentedEnum(StrEnum):
    """Text values with documentation: ``doc`` in one line, ``uses`` the places where it appears."""

    _value_: str
    doc: str
    uses: tuple[StrEnum, ...]

    def __new__(cls, value: str, doc: str = "", *uses: StrEnum) -> Self:
        """Return a member that equals ``value``."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        member.uses = uses
        return member
