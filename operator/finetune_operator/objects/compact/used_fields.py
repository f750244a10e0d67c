"""The fields of objects that a snapshot uses; ``trimming`` drops all others on arrival.

A part of the operator that starts to read another field of an object adds it here.
"""

from collections.abc import Mapping
from typing import Any

from finetune_operator.objects import naming

LABELS = (
    naming.JOB,
    naming.JOB_UID,
    naming.ENDPOINT,
    naming.REVISION,
    naming.BUILD,
    naming.STAGE,
    naming.ATTEMPT,
    naming.REUSE,
    naming.QUEUE,
    naming.QUEUE_PRIORITY,
    naming.TEMPLATE_HASH,
)
"""Labels that the operator uses."""
APPLIED = (
    "Deployment",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Service",
)
"""Kinds of which the author of an unwanted change is reported."""
METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
)

Fields = Mapping[str, Any]
"""Fields to keep: by name, those of its value, a list of those of each element, or None for the
whole value."""

_CONDITION: Fields = dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"))
CONDITIONS: Mapping[str, frozenset[str]] = {
    "Pod": frozenset({"PodScheduled", "Ready", "DisruptionTarget"}),
    "Job": frozenset({"Complete", "Failed", "Suspended"}),
    "Deployment": frozenset({"Available", "Progressing", "ReplicaFailure"}),
}
"""Types of the conditions that a snapshot uses."""
_CONTAINER: Fields = {"name": None, "resources": None}
_CONTAINER_STATUS: Fields = dict.fromkeys(
    ("name", "image", "imageID", "state", "lastState", "ready", "restartCount")
)
FIELDS: Mapping[str, Fields] = {
    "Pod": {
        "spec": {
            "nodeName": None,
            "nodeSelector": None,
            "affinity": None,
            "tolerations": None,
            "topologySpreadConstraints": None,
            "containers": [_CONTAINER],
            "volumes": [{"persistentVolumeClaim": None}],
        },
        "status": {
            "phase": None,
            "podIP": None,
            "startTime": None,
            "reason": None,
            "message": None,
            "conditions": [_CONDITION],
            "containerStatuses": [_CONTAINER_STATUS],
            "initContainerStatuses": [_CONTAINER_STATUS],
        },
    },
    "Job": {
        "spec": {
            "suspend": None,
            "activeDeadlineSeconds": None,
            "template": {"metadata": {"labels": None, "annotations": None}},
        },
        "status": {
            "startTime": None,
            "completionTime": None,
            "ready": None,
            "succeeded": None,
            "failed": None,
            "conditions": [_CONDITION],
        },
    },
    "Deployment": {
        "spec": {"replicas": None, "progressDeadlineSeconds": None},
        "status": {
            "observedGeneration": None,
            "replicas": None,
            "updatedReplicas": None,
            "availableReplicas": None,
            "conditions": [_CONDITION],
        },
    },
    "PersistentVolumeClaim": {"spec": None, "status": None},
    "Service": {"spec": {"selector": None, "ports": None}},
    "NetworkPolicy": {"spec": None},
    "PodDisruptionBudget": {"spec": None},
    "LocalQueue": {"spec": {"clusterQueue": None}},
    "ClusterQueue": {
        "spec": {"resourceGroups": [{"flavors": [{"name": None, "resources": [{"name": None}]}]}]},
    },
    "ResourceFlavor": {"spec": {"nodeLabels": None}},
    # Without the pod templates.
    "Workload": {
        "spec": {"queueName": None, "priority": None, "active": None},
        "status": {"conditions": [{"type": None, "status": None}]},
    },
}


def metadata_fields(kind: str) -> Fields:
    """Return the fields of the metadata of an object that ``reduced`` reads."""
    fields = {
        **dict.fromkeys((*METADATA, "labels", "ownerReferences")),
        "annotations": dict.fromkeys((naming.SELECTED_NODE, naming.DEFAULT_PROFILE, naming.WAKE)),
    }
    if kind in APPLIED:
        fields["managedFields"] = [{"manager": None, "time": None, "fieldsV1": {"f:spec": {}}}]
    return fields
