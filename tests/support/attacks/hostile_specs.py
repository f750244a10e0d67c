"""Specs with which a user reaches beyond what the default policy allows."""

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """Fields of a spec, and the field that the policy must name."""

    name: str
    spec: Spec
    field: str


def _node(selector: Spec) -> Spec:
    return {"placement": {"nodeSelector": selector}}


def _tolerate(**toleration: str) -> Spec:
    return {"placement": {"tolerations": [toleration]}}


def _labels(key: str) -> Spec:
    return {"podMetadata": {"labels": {"example.com/team": "a", key: "payments"}}}


def _resources(stage: str, part: str, name: str, amount: str = "1") -> Spec:
    return {"resources": {stage: {part: {"cpu": "1", name: amount}}}}


PRIORITY, SELECTOR = "spec.priorityClassName", "spec.placement.nodeSelector"
TOLERATIONS, LABELS = "spec.placement.tolerations", "spec.podMetadata.labels"

PRIVILEGES = (
    *(
        Hostile(name=name, spec={"priorityClassName": name}, field=PRIORITY)
        for name in ("system-node-critical", "system-cluster-critical", "system-x")
    ),
    Hostile(name="every taint", spec=_tolerate(operator="Exists"), field=TOLERATIONS),
    Hostile(
        name="every taint to evict",
        spec=_tolerate(operator="Exists", effect="NoExecute"),
        field=TOLERATIONS,
    ),
    *(
        Hostile(name=f"taint {key}", spec=_tolerate(key=key, **rest), field=TOLERATIONS)
        for key, rest in (
            (CONTROL_PLANE, {"operator": "Exists"}),
            (CONTROL_PLANE, {}),
            ("node-role.kubernetes.io/master", {"operator": "Exists"}),
            ("node-role.kubernetes.io/etcd", {"value": "true"}),
            ("node-role.kubernetes.io/controlplane", {"value": "true"}),
            ("CriticalAddonsOnly", {"value": "true"}),
        )
    ),
    Hostile(
        name="every taint for serving pods",
        spec={"serving": {"placement": {"tolerations": [{"operator": "Exists"}]}}},
        field="spec.serving.placement.tolerations",
    ),
    Hostile(
        name="one bad toleration of several",
        spec={
            "placement": {
                "tolerations": [{"key": "gpu", "operator": "Exists"}, {"operator": "Exists"}]
            }
        },
        field=TOLERATIONS,
    ),
    *(
        Hostile(name=f"node {key}={value}", spec=_node({key: value}), field=SELECTOR)
        for key, value in (
            (CONTROL_PLANE, ""),
            (CONTROL_PLANE, "true"),
            ("node-role.kubernetes.io/master", ""),
            ("kubernetes.io/role", "control-plane"),
            ("node-role.kubernetes.io/controlplane", "true"),
        )
    ),
    Hostile(
        name="control plane for serving pods",
        spec={"serving": {"placement": {"nodeSelector": {CONTROL_PLANE: ""}}}},
        field="spec.serving.placement.nodeSelector",
    ),
    *(
        Hostile(
            name=f"{stage} {part} {name}",
            spec=_resources(stage, part, name, amount),
            field=f"spec.resources.{stage}",
        )
        for stage in ("prepare", "train", "merge", "serve")
        for part, name, amount in (
            ("limits", "nvidia.com/mig-3g.40gb", "7"),
            ("limits", "nvidia.com/gpu.shared", "64"),
            ("requests", "amd.com/gpus", "8"),
            ("limits", "pods", "1"),
        )
    ),
)
"""Finding 6: priority, nodes and devices."""

MEMBERSHIPS = (
    *(
        Hostile(name=f"label {key}", spec=_labels(key), field=LABELS)
        for key in (
            "app",
            "run",
            "k8s-app",
            "service.kubernetes.io/service-proxy-name",
            "topology.kubernetes.io/zone",
            "pod-template.k8s.io/hash",
            "sidecar.istio.io/inject",
            "security.istio.io/tlsMode",
            "linkerd.io/inject",
            "argocd.argoproj.io/instance",
            "azure.workload.identity/use",
            "local/team",
        )
    ),
)
"""Finding 7: labels by which other components select or change pods."""
