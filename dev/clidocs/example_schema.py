"""The schema of a FineTuneJob as an API server publishes it, from the CRD of this version."""

from __future__ import annotations

from typing import Any

from clidocs.example_jobs import Object
from finetune_api import GROUP, KIND
from finetune_api.crd import definition
from finetune_api.crd.resources import FINETUNEJOB


class _Document(dict[str, Any]):
    """The large schema, of which no copy is made."""

    def __deepcopy__(self, memo: object) -> _Document:
        return self


def _document() -> Object:
    (version,) = definition.custom_resource_definition(FINETUNEJOB)["spec"]["versions"]
    kind = {"group": GROUP, "version": version["name"], "kind": KIND}
    schema = {**version["schema"]["openAPIV3Schema"], "x-kubernetes-group-version-kind": [kind]}
    name = f"dev.finetune.{version['name']}.{KIND}"
    return _Document(
        {"metadata": {"name": version["name"]}, "components": {"schemas": {name: schema}}}
    )


COLLECTIONS = {f"/openapi/v3/apis/{GROUP}": [_document()]}
