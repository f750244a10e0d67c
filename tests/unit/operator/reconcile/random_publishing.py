"""What random histories publish: targets, their rejections, and a model that the gate rejects."""

import json

from tests.fakes import controllers
from tests.fakes.apiserver import Thing

WORSE_SEED = 2
_WORSE = {"loss": "2.0", "difference": "1.0", "standardError": "0.1"}
WORSE: Thing = {
    "rows": 100,
    "tokens": 1000,
    "baseLoss": "1.0",
    "dequantized": _WORSE,
    "original": _WORSE,
}
"""Evaluation of a model that the gate rejects."""

REGISTRY: Thing = {"oci": {"repository": "registry.example.com/a"}}
PUBLISHED: list[list[Thing]] = [
    [{"name": "a", "what": "adapter", **REGISTRY}],
    [{"name": "a", "what": "adapter", "when": "Trained", "tags": ["latest"], **REGISTRY}],
    [
        {"name": "a", "what": "adapter", "allow": ["Skipped"], **REGISTRY},
        {"name": "b", "what": "adapter", "when": "Trained", "s3": {"uri": "s3://models/b"}},
    ],
    [{"name": "h", "what": "adapter", "when": "Trained", "huggingFace": {"repo": "acme/a"}}],
]
"""Targets of ``publish``, which fit every spec of a history."""


def not_published(pod: Thing) -> tuple[int, str]:
    """Return the end of a publish pod of which a target rejects the content."""
    first = json.loads(pod["spec"]["containers"][0]["args"][0])["targets"][0]["name"]
    artifacts = controllers.published(pod, first)
    reason = "PublishFailed"
    return 87, controllers.message("publish", "failed", reason=reason, artifacts=artifacts)
