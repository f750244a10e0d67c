"""NetworkPolicies: who may talk to a job's pods, and whom they may talk to.

Only the stage pod reaches out (to the hub), and not to the cloud's metadata service. Training and
merging reach nobody. The endpoint answers its own namespace; further callers are admitted by a
policy of the namespace's owner, since policies add up.
"""

from typing import Any

from finetune_operator.children import names
from finetune_operator.children.jobs import METRICS_PORT
from finetune_operator.children.serving import PORT
from finetune_operator.state import Object

METADATA = {
    "0.0.0.0/0": ["169.254.0.0/16", "100.100.100.200/32"],
    "::/0": ["fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128"],
}
"""Where clouds answer a pod's questions about its node's identity: link-local addresses, and those
of Alibaba Cloud (IPv4), AWS and Google Cloud (IPv6), which are not."""


def render(job: Object, operator_namespace: str) -> list[dict[str, Any]]:
    """Return the three policies of a job."""
    operator: dict[str, Any] = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
    }
    scrape = [{"from": [operator], "ports": [{"protocol": "TCP", "port": METRICS_PORT}]}]
    callers = [{"podSelector": {}}, operator]
    outside = [
        {"to": [{"ipBlock": {"cidr": cidr, "except": metadata}}]}
        for cidr, metadata in METADATA.items()
    ]
    dns = [
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
    ]
    return [
        _policy(job, "stage", ["stage"], ingress=scrape, egress=outside + dns),
        _policy(job, "work", ["train", "merge"], ingress=scrape, egress=[]),
        _policy(
            job,
            "serve",
            ["serve"],
            ingress=[{"from": callers, "ports": [{"protocol": "TCP", "port": PORT}]}],
            egress=[],
        ),
    ]


def _policy(
    job: Object, suffix: str, stages: list[str], *, ingress: list[Any], egress: list[Any]
) -> dict[str, Any]:
    name = job["metadata"]["name"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": names.metadata(job, f"{name}-{suffix}", names.labels(job, component="network")),
        "spec": {
            "podSelector": {
                "matchLabels": {names.JOB: name},
                "matchExpressions": [{"key": names.STAGE, "operator": "In", "values": stages}],
            },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }
