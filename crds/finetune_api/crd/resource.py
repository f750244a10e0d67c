"""How a kind of objects is described: its schema, columns, rules, scope and names. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from finetune_api import GROUP


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of ``kubectl get``. With ``wide``, only ``-o wide`` shows it."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class CelRule:
    """A rule that only the API server can check: about the name, or about a change."""

    cel: str
    message: str


@dataclass(frozen=True, kw_only=True)
class NameFormat:
    """The rule of ``metadata.name``. It is stricter than that of the API server.

    pattern: regular expression of the whole name; empty if only its length is limited.
    """

    max_length: int
    message: str
    pattern: str = ""

    def fails(self, name: str) -> bool:
        """Report whether an object may not have a name."""
        matches = not self.pattern or re.fullmatch(self.pattern, name) is not None
        return not matches or len(name) > self.max_length

    @property
    def rule(self) -> CelRule:
        """The same rule for the API server."""
        terms = [f"self.metadata.name.matches('{self.pattern}')"] if self.pattern else []
        cel = " && ".join([*terms, f"size(self.metadata.name) <= {self.max_length}"])
        return CelRule(cel=cel, message=self.message)


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A kind of objects, as its CustomResourceDefinition describes it."""

    kind: str
    plural: str
    short_name: str
    scope: Literal["Namespaced", "Cluster"]
    categories: tuple[str, ...]
    description: str
    spec: type[BaseModel]
    spec_description: str
    status: type[BaseModel]
    status_description: str
    columns: tuple[Column, ...]
    name: NameFormat | None = None
    """Of its objects. The operator writes those without one."""
    rules: tuple[CelRule, ...] = ()
    """Of the whole object, in addition to that of its name."""
    group_rules: Mapping[str, tuple[CelRule, ...]] = field(default_factory=dict)
    """Of a group of fields in the spec, by its name."""
    scale: Mapping[str, str] | None = None
    """Paths of the ``scale`` subresource."""
    page: str
    """Name of the reference page."""
    title: str
    """Title of the reference page."""

    @property
    def object_rules(self) -> tuple[CelRule, ...]:
        """The rules of the whole object."""
        return self.rules if self.name is None else (self.name.rule, *self.rules)

    @property
    def file(self) -> str:
        """Name of the file with the CustomResourceDefinition."""
        return f"{GROUP}_{self.plural}.yaml"


@dataclass(frozen=True, kw_only=True)
class ClusterScoped(Resource):
    """A kind of objects without a namespace. ``kubectl get all`` does not list them."""

    scope: Literal["Namespaced", "Cluster"] = "Cluster"
    categories: tuple[str, ...] = ("finetune",)
