"""Build the CustomResourceDefinition of a ``Resource`` from its models."""

from typing import Any

from finetune_api import API_VERSION, GROUP, VERSION
from finetune_api.crd.openapi import Schema, schema_of
from finetune_api.crd.resource import CelRule, Resource


def custom_resource_definition(resource: Resource) -> dict[str, Any]:
    """Return the CustomResourceDefinition as a dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "finetune-operator"},
        },
        "spec": {
            "group": GROUP,
            "scope": resource.scope,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short_name],
                "categories": list(resource.categories),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        **({"scale": dict(resource.scale)} if resource.scale else {}),
                    },
                    "additionalPrinterColumns": [
                        {
                            "name": column.name,
                            "type": column.type,
                            "jsonPath": column.path,
                            "priority": int(column.wide),
                        }
                        for column in resource.columns
                    ],
                    "schema": {"openAPIV3Schema": _schema(resource)},
                }
            ],
        },
    }


def _schema(resource: Resource) -> Schema:
    """Return the schema of a whole object."""
    spec = {**schema_of(resource.spec), "description": resource.spec_description}
    for group, rules in resource.group_rules.items():
        spec["properties"][group]["x-kubernetes-validations"] = _validations(rules)
    status = {**schema_of(resource.status), "description": resource.status_description}
    if "observedGeneration" in status["properties"]:
        # kstatus compares this with metadata.generation. Without the default, a new object that has
        # not been reconciled yet would count as current. It is the only default of the schema.
        status["default"] = {"observedGeneration": -1}
    return {
        "type": "object",
        "description": resource.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": f"API group and version: {API_VERSION}.",
            },
            "kind": {"type": "string", "description": f"Kind of the object: {resource.kind}."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        **(
            {"x-kubernetes-validations": _validations(rules)}
            if (rules := resource.object_rules)
            else {}
        ),
    }


def _validations(rules: tuple[CelRule, ...]) -> list[dict[str, str]]:
    return [{"rule": rule.cel, "message": rule.message} for rule in rules]
