"""A ConfigMap that imitates that of a revision, and the pod templates that it must not change."""

import json
from typing import Any

from tests.fakes.apiserver import Thing

from finetune_operator.actions import Apply, Create
from finetune_operator.objects import naming
from finetune_operator.types import Plan

HOSTILE_IMAGE = "registry/hostile:1"


def hostile_configmap(job: Thing, name: str, revision: str) -> Thing:
    """Return a ConfigMap with the labels and the owner of the operator's, and other content."""
    images = dict.fromkeys(("trainer", "serving", "operator"), HOSTILE_IMAGE)
    settings = {
        "images": images,
        "imagePullSecrets": ["hostile"],
        "hub": {"endpoint": "https://hub.hostile.example"},
        "serving": {"command": ["sh"], "args": ["-c", "true"], "env": {"HOSTILE": "1"}},
        "defaults": {"training": {"seed": 666}, "serving": {"maxModelLen": 7}},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {
                naming.MANAGER: naming.MANAGED_BY,
                naming.JOB: job["metadata"]["name"],
                naming.REVISION: revision,
            },
            "ownerReferences": [naming.owner_reference(job)],
        },
        "data": {"job.json": '{"training": {"seed": 666}}', "operator.json": json.dumps(settings)},
    }


def pod_templates(intended: Plan) -> dict[str, Any]:
    """Return the pod templates that a plan writes, by kind and name of their object."""
    return {
        f"{action.object['kind']} {action.object['metadata']['name']}": (
            action.object["spec"]["template"]
        )
        for action in intended.actions
        if isinstance(action, Create | Apply) and action.object["kind"] in ("Job", "Deployment")
    }
