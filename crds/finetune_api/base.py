"""The base of every model in a file or object of Kubernetes: camelCase outside, snake_case here."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class CamelModel(BaseModel):
    """A group of values that does not change; unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class StatusModel(CamelModel):
    """A group of status fields; unknown ones (of a newer operator) are left out."""

    model_config = ConfigDict(extra="ignore")


Values = dict[str, Any]
