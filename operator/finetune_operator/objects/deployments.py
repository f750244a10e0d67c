"""Facts about Deployments: replicas of the current template, and rejected pods."""

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions, naming
from finetune_operator.types import Object


def answering(deployment: Object | None) -> int:
    """Return how many pods of a Deployment's current template are ready, 0 if unknown.

    A serving pod becomes ready only after its model has been verified.
    """
    if deployment is None or "deletionTimestamp" in deployment["metadata"]:
        return 0
    if not observed(deployment):
        return 0
    status = deployment.get("status", {})
    return min(int(status.get(f"{which}Replicas", 0)) for which in ("updated", "available"))


def observed(deployment: Object) -> bool:
    """Report whether a Deployment's status describes its current spec."""
    generation = int(deployment["metadata"]["generation"])
    return int(deployment.get("status", {}).get("observedGeneration", 0)) >= generation


def is_replacing_pods(deployment: Object) -> bool:
    """Report whether a Deployment has not finished the rollout of its current template.

    Once it has, the condition Progressing keeps the reason NewReplicaSetAvailable, even if the pods
    become unavailable later.
    """
    progressing = conditions.get(deployment, "Progressing")
    return not observed(deployment) or (
        progressing.get("status") == "True"
        and progressing.get("reason") != "NewReplicaSetAvailable"
    )


def replica_failure(deployment: Object) -> Mapping[str, Any] | None:
    """Return the condition ReplicaFailure if the API server rejects a pod, otherwise None."""
    condition = conditions.get(deployment, "ReplicaFailure")
    failed = condition.get("status") == "True" and condition.get("reason") == Reason.FAILED_CREATE
    return condition if failed and observed(deployment) else None


def controls(deployment: Object, pod: Object) -> bool:
    """Report whether a Deployment controls a pod, through a ReplicaSet.

    ReplicaSets are not read; the name of one consists of its Deployment and the template's hash.
    """
    controller = naming.controller_of(pod)
    if controller is None or controller.get("kind") != "ReplicaSet":
        return False
    template = naming.label(pod, naming.TEMPLATE_HASH)
    name = f"{deployment['metadata']['name']}-{template}"
    return controller.get("name") == name and (
        naming.label(deployment, naming.BUILD) == naming.label(pod, naming.BUILD)
    )
