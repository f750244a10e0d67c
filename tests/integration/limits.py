"""A job that keeps all limits of the differential tests, and for each limit an edit of it.

A limit without a case fails the tests, because they take the limits from the schema.
"""

from typing import Any

from finetune_api.defaulting import effective_defaults, resolve
from finetune_api.layering import without_nulls
from finetune_api.v1alpha1.spec import FineTuneJobSpec

Spec = dict[str, Any]
SHA256 = "0" * 64
BASE: Spec = {
    "model": {"source": "hf://acme/base"},
    "dataset": {"source": "hf://acme/rows", "format": "text"},
    "profile": "gold",
    "queueName": "team-a",
    "runPolicy": {"maxGpuSeconds": 3600},
    "serving": {"idle": {"afterSeconds": 3600}, "apiKeySecretRef": {"name": "finetune-key"}},
    "resources": {"train": {}, "serve": {}},
}


def _dataset(source: str, **more: Any) -> Spec:
    return {"dataset": {"source": source, **more}}


def _published(repository: str) -> Spec:
    return {"publish": [{"name": "a", "what": "adapter", "oci": {"repository": repository}}]}


def _replicas(number: int) -> Spec:
    return {"serving": {"replicas": number}, "storage": {"accessMode": "ReadWriteMany"}}


CASES: dict[str, tuple[Spec, Spec]] = {
    "priorityClasses": (
        {"priorityClassName": "batch-a"},
        {"priorityClassName": "system-node-critical"},
    ),
    "workloadPriorityClasses": (
        {"workloadPriorityClassName": "low"},
        {"workloadPriorityClassName": "robot-x"},
    ),
    "queues": ({"queueName": "team-c"}, {"queueName": "team-b"}),
    "requireQueue": ({}, {"queueName": None, "profile": None}),
    "requireApiKey": (
        {"serving": {"enabled": False, "apiKeySecretRef": None}},
        {"serving": {"apiKeySecretRef": None}, "profile": None},
    ),
    "requireProfile": ({}, {"profile": None}),
    "nodeSelectors": (
        {"placement": {"nodeSelector": {"pool": "a"}}},
        {"serving": {"placement": {"nodeSelector": {"app": "x"}}}},
    ),
    "tolerations": (
        {"placement": {"tolerations": [{"key": "dedicated", "value": "team-a"}]}},
        {"placement": {"tolerations": [{"operator": "Exists"}]}},
    ),
    "gpuStageResources": (
        {"resources": {"train": {"limits": {"rdma/hca": "1"}}}},
        {"resources": {"serve": {"limits": {"rdma/bad": "1"}}}},
    ),
    "serviceAccounts": (
        {"access": {"serviceAccountName": "robot-7"}},
        {"access": {"serviceAccountName": "robot-x"}},
    ),
    "secrets": (
        {"serving": {"apiKeySecretRef": {"name": "finetune-a"}}},
        {"serving": {"apiKeySecretRef": {"name": "finetune-admin"}}},
    ),
    "configMaps": (_dataset("configmap://rows/a.jsonl"), _dataset("configmap://other/a.jsonl")),
    "claims": (_dataset("pvc://data/rows"), _dataset("pvc://other/rows")),
    "sources": (_dataset("hf://acme/more"), _dataset("hf://other/rows")),
    "hosts": (
        _dataset("https://data.example.com/a.jsonl", sha256=SHA256),
        _dataset("https://example.org/a.jsonl", sha256=SHA256),
    ),
    "publishDestinations": (
        _published("registry.example.com/a"),
        _published("other.example.com/a"),
    ),
    "podLabels": (
        {"podMetadata": {"labels": {"example.com/a": "1"}}},
        {"podMetadata": {"labels": {"app": "x"}}},
    ),
    "maxReplicas": (_replicas(3), _replicas(4)),
    "maxGpuSeconds": (
        {"runPolicy": {"maxGpuSeconds": 60}},
        {"runPolicy": {"maxGpuSeconds": 3601}},
    ),
    "maxSequenceLength": (
        {"training": {"sequenceLength": 2048}},
        {"training": {"sequenceLength": 2049}},
    ),
    "maxIdleSeconds": (
        {"serving": {"idle": {"afterSeconds": 60}}},
        {"serving": {"idle": {"afterSeconds": 3601}}},
    ),
}
"""For each limit an edit of ``BASE`` that keeps it, and one that violates it alone."""


def edited(change: Spec, **more: Any) -> Spec:
    """Return ``BASE`` with an edit; null removes a field."""
    found: Spec = dict(without_nulls(_merged(BASE, {**change, **more})))
    return found


def completed(spec: Spec) -> FineTuneJobSpec:
    """Return a spec as the operator completes it; the built-in length exceeds the limit."""
    return resolve(spec, effective_defaults({"training": {"sequenceLength": 2048}})).spec


def _merged(below: Spec, above: Spec) -> Spec:
    both = {
        name: _merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}
