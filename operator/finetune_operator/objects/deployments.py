"""Facts about Deployments: replicas of the newest template, and why one was refused."""

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.types import Object


def answering(deployment: Object | None) -> int:
    """Return how many pods of a Deployment's newest template are ready, 0 while that is not known.

    Ready is a pod whose model was verified: its containers' readiness says so.
    """
    if deployment is None or "deletionTimestamp" in deployment["metadata"]:
        return 0
    if not observed(deployment):
        return 0
    status = deployment.get("status", {})
    return min(int(status.get(f"{which}Replicas", 0)) for which in ("updated", "available"))


def observed(deployment: Object) -> bool:
    """Tell whether a Deployment's status is about its present spec."""
    generation = int(deployment["metadata"]["generation"])
    return int(deployment.get("status", {}).get("observedGeneration", 0)) >= generation


def replica_failure(deployment: Object) -> Object | None:
    """Return a Deployment's condition that a pod of it was refused, None where none was."""
    for condition in deployment.get("status", {}).get("conditions", ()):
        is_failure = (condition["type"], condition["status"]) == ("ReplicaFailure", "True")
        if is_failure and condition.get("reason") == Reason.FAILED_CREATE and observed(deployment):
            return dict(condition)
    return None
