"""Objects with which a tenant imitates or changes those of the operator.

The admission policy of objects rejects them (``admissionPolicy.protectObjects``). They need an API
server: tests/integration/test_object_policy.py sends them as a user with the cluster role edit.
"""

from dataclasses import dataclass
from typing import Any

LABEL = {"finetune.dev/job": "demo"}
OWNER = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "name": "demo",
    "uid": "0f0f0f0f-0000-4000-8000-000000000000",
    "controller": True,
}
CORE, BATCH, APPS = "/api/v1", "/apis/batch/v1", "/apis/apps/v1"
NETWORK, POLICY = "/apis/networking.k8s.io/v1", "/apis/policy/v1"
POD = {"containers": [{"name": "c", "image": "tenant/image:1"}], "restartPolicy": "Never"}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
SELECTED = {"matchLabels": {"app": "own"}}


@dataclass(frozen=True, kw_only=True)
class Forged:
    """An object of a tenant, and the attack: number and title of its finding."""

    name: str
    finding: int
    title: str
    api: str
    resource: str
    metadata: dict[str, Any]
    body: dict[str, Any]


REVISION = (2, "a ConfigMap decides about the image of the pods")
METRICS = (3, "a response of a pod stops the operator")
MEMBER = (7, "pods join other workloads")
RESULT = (8, "a stage trusts the manifest next to the files")
EGRESS = (11, "a pod connects to private addresses")
KINDS: tuple[tuple[tuple[int, str], str, str, dict[str, Any]], ...] = (
    (REVISION, CORE, "configmaps", {"data": {"operator.json": '{"images": {"trainer": "evil"}}'}}),
    (METRICS, CORE, "pods", {"spec": POD}),
    (RESULT, CORE, "persistentvolumeclaims", {"spec": CLAIM}),
    (MEMBER, CORE, "services", {"spec": {"ports": [{"port": 80}]}}),
    (EGRESS, NETWORK, "networkpolicies", {"spec": {"podSelector": {}}}),
    (MEMBER, POLICY, "poddisruptionbudgets", {"spec": {"maxUnavailable": 1, "selector": SELECTED}}),
)


def _template(labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "own", **labels}}, "spec": {**POD, **spec}}


def _workload(labels: dict[str, str]) -> dict[str, Any]:
    return {"selector": SELECTED, "template": _template(labels, restartPolicy="Always")}


def _workloads(labels: dict[str, str]) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    job = {"template": _template(labels)}
    return (
        (BATCH, "jobs", job),
        (BATCH, "cronjobs", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}),
        (APPS, "deployments", _workload(labels)),
        (APPS, "replicasets", _workload(labels)),
        (APPS, "statefulsets", {**_workload(labels), "serviceName": "s"}),
        (APPS, "daemonsets", _workload(labels)),
        (CORE, "replicationcontrollers", {"template": _workload(labels)["template"]}),
    )


WORKLOADS = tuple((RESULT, api, resource, {"spec": spec}) for api, resource, spec in _workloads({}))
MARKS: dict[str, dict[str, Any]] = {
    "label": {"labels": LABEL},
    "owner": {"ownerReferences": [OWNER]},
    "owner is an endpoint": {"ownerReferences": [{**OWNER, "kind": "FineTuneEndpoint"}]},
    "label of an endpoint": {"labels": {"finetune.dev/endpoint": "shared"}},
    "unknown label": {"labels": {"finetune.dev/other": ""}},
    "owner of another version": {
        "ownerReferences": [{**OWNER, "apiVersion": "finetune.dev/v9", "controller": False}]
    },
}
FORGED = (
    *(
        Forged(
            name=f"{resource} with {mark}",
            finding=number,
            title=title,
            api=api,
            resource=resource,
            metadata=metadata,
            body=body,
        )
        for (number, title), api, resource, body in (*KINDS, *WORKLOADS)
        for mark, metadata in MARKS.items()
    ),
    *(
        Forged(
            name=f"{resource} whose pods have the label",
            finding=RESULT[0],
            title=RESULT[1],
            api=api,
            resource=resource,
            metadata={},
            body={"spec": spec},
        )
        for api, resource, spec in _workloads(LABEL)
    ),
)
"""Creations. The objects without a mark are allowed."""

TEMPLATE_CHANGES: dict[str, dict[str, Any]] = {
    "image": {"containers": [{"name": "c", "image": "tenant/other:1"}]},
    "command": {"containers": [{"name": "c", "command": ["sh"]}]},
    "environment": {"containers": [{"name": "c", "env": [{"name": "A", "value": "b"}]}]},
    "another container": {"containers": [{"name": "second", "image": "tenant/image:1"}]},
    "init container": {"initContainers": [{"name": "first", "image": "tenant/image:1"}]},
    "volume": {"volumes": [{"name": "v", "secret": {"secretName": "payroll"}}]},
    "service account": {"serviceAccountName": "admin"},
}
"""Changes of the pod template of a Deployment or ReplicaSet of the operator."""

OTHER_OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "own", "uid": "0a0a"}
OWNER_CHANGES: dict[str, list[dict[str, Any]]] = {
    "no controller": [{**OWNER, "controller": False}],
    "another name": [{**OWNER, "name": "other"}],
    "another version": [{**OWNER, "apiVersion": "finetune.dev/v9"}],
    "another kind": [{**OWNER, "kind": "Deployment"}],
    "another owner": [OWNER, OTHER_OWNER],
    "another controller": [{**OWNER, "controller": False}, {**OTHER_OWNER, "controller": True}],
    "no owner": [],
}
"""Changes of the owners of an object of the operator: it would no longer be the operator's, or it
would not be deleted with its job."""

JOB_UID = "batch.kubernetes.io/controller-uid"
"""Label by which a Job selects its pods, and adopts those without a controller."""
ADOPTED = tuple(
    (api, resource, spec if resource != "jobs" else {**spec, "manualSelector": True})
    for api, resource, spec in _workloads({JOB_UID: "0f0f"})
)
"""Workloads whose pods another Job would adopt after the workload was deleted without them."""

TEMPLATE_LABELS = {
    "azure.workload.identity/use": "true",
    "service": "payments",
    "app.kubernetes.io/managed-by": "Helm",
}
"""Labels of a pod template that give its pods an identity, or the traffic of another workload.

The last one hides them from the watches of the operator.
"""

STATUS_WRITES: dict[str, tuple[int, str]] = {
    "jobs": RESULT,
    "persistentvolumeclaims": RESULT,
    "pods": EGRESS,
    "poddisruptionbudgets": MEMBER,
    "replicasets": MEMBER,
    "services": MEMBER,
}
"""Kinds whose subresource status also stores labels, each with its finding."""
