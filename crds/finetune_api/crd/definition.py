"""Build the CustomResourceDefinition of FineTuneJob from the models."""

from typing import Any

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.crd.openapi import schema_of
from finetune_api.quantity import comparable
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status import FineTuneJobStatus

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_MAX_LENGTH = 40
NAME_RULE = (
    f"metadata.name is part of the name of a Service: use at most {NAME_MAX_LENGTH} lower-case "
    "letters, digits and '-', starting with a letter and ending with a letter or digit"
)

_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("State", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
    ("Serving", "string", ".status.serving.summary", 0),
    ("Progress", "string", ".status.progress", 0),
    ("ETA", "string", ".status.eta", 0),
    ("Loss", "string", ".status.training.loss", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Warnings", "integer", ".status.warningCount", 1),
    ("Message", "string", ".status.summary", 1),
)


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "finetune-operator"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "finetunejob",
                "shortNames": ["ftj"],
                "categories": ["all", "finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.serving.replicas",
                            "statusReplicasPath": ".status.serving.replicas",
                            "labelSelectorPath": ".status.serving.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path, "priority": priority}
                        for name, type_, path, priority in _COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> dict[str, Any]:
    spec = schema_of(FineTuneJobSpec)
    spec["description"] = (
        "Desired state of the job: the base model, the dataset, the training recipe and the "
        "serving settings."
    )
    spec["properties"]["storage"]["x-kubernetes-validations"] = [
        {
            "rule": f"!has(self.size) || !has(oldSelf.size) || !({comparable('self.size')}) || "
            "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
            "message": "a volume cannot shrink: keep storage.size or set a larger value",
        }
    ]
    status = schema_of(FineTuneJobStatus)
    status["description"] = "Observed state of the job. Written by the operator."
    # kstatus compares this with metadata.generation. Without the default, a new job that has not
    # been reconciled yet would count as current. It is the only default of the schema.
    status["default"] = {"observedGeneration": -1}
    return {
        "type": "object",
        "description": "FineTuneJob fine-tunes a language model with QLoRA on one GPU, merges the "
        "adapter into the base model, and serves the result.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": "API group and version: finetune.dev/v1alpha1.",
            },
            "kind": {"type": "string", "description": "Kind of the object: FineTuneJob."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {
                "rule": f"self.metadata.name.matches('{NAME_PATTERN}') && "
                f"size(self.metadata.name) <= {NAME_MAX_LENGTH}",
                "message": NAME_RULE,
            }
        ],
    }
