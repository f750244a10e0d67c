"""NetworkPolicies: who may talk to a job's pods, and whom they may talk to.

Only the stage pod reaches out (to its sources, wherever they are), and not to the cloud's metadata
service. Training and merging reach nobody, serving reaches the cluster's DNS. The endpoint answers
the namespaces that the spec names, its own by default; further callers are admitted by a policy of
the namespace's owner, since policies add up. Prometheus reads vLLM's metrics where requests go too:
on that port the monitoring namespace may do both.
"""

from collections.abc import Iterable
from typing import Any

from finetune_operator.children import names
from finetune_operator.children.jobs import METRICS_PORT
from finetune_operator.children.verify import PORT as VERIFY_PORT
from finetune_operator.children.vllm import PORT
from finetune_operator.config import OperatorConfig
from finetune_operator.revisions import Chosen
from finetune_operator.state import Action, Apply, Create, Object

NAMESPACE = "kubernetes.io/metadata.name"
NODE_LOCAL_DNS = {"ipBlock": {"cidr": "169.254.20.10/32"}}
"""Where NodeLocal DNSCache answers; clusters without it ask pods in kube-system."""

METADATA = {
    "0.0.0.0/0": ["169.254.0.0/16", "100.100.100.200/32"],
    "::/0": ["fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128"],
}
"""Where clouds answer a pod's questions about its node's identity: link-local addresses, and those
of Alibaba Cloud (IPv4), AWS and Google Cloud (IPv6), which are not."""
POD_IDENTITY = "169.254.170.23/32"
"""Where EKS answers a pod about the identity of its own service account, and of no other."""


def ensure(
    job: Object, chosen: Chosen, config: OperatorConfig, present: Iterable[Object]
) -> list[Action]:
    """Return what makes the policies be there, and say what the spec says now."""
    known = {
        policy["metadata"]["name"]: policy for policy in present if names.owned_by(job, policy)
    }
    actions: list[Action] = []
    for wanted in render(job, chosen, config):
        found = known.get(wanted["metadata"]["name"])
        if found is None:
            actions.append(Create(object=wanted))
        elif _filled(found["spec"]) != _filled(wanted["spec"]):
            actions.append(Apply(object=wanted))
    return actions


def _filled(spec: Object) -> dict[str, Any]:
    """Return a spec without its empty lists, which the API server does not keep."""
    return {key: value for key, value in spec.items() if value != []}


def render(job: Object, chosen: Chosen, config: OperatorConfig) -> list[dict[str, Any]]:
    """Return the three policies of a job."""
    operator = _namespaces(config.operator_namespace)
    monitoring = [_namespaces(name) for name in (config.monitoring_namespace,) if name]
    allowed = chosen.resolved.spec.serving.allowed_namespaces
    callers = [_namespaces(*allowed)] if allowed else [{"podSelector": {}}]
    scrape = [
        {"from": [operator, *monitoring], "ports": [{"protocol": "TCP", "port": METRICS_PORT}]}
    ]
    outside = [
        {"to": [{"ipBlock": {"cidr": cidr, "except": metadata}}]}
        for cidr, metadata in METADATA.items()
    ]
    identity = [
        {"to": [{"ipBlock": {"cidr": POD_IDENTITY}}], "ports": [{"protocol": "TCP", "port": 80}]}
    ]
    # Some network plugins match no pod by an address, and a store may run in the cluster itself.
    inside: list[dict[str, Any]] = [{"to": [{"namespaceSelector": {}}]}]
    dns = [
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
    ]
    return [
        _policy(job, "stage", ["stage"], ingress=scrape, egress=outside + inside + identity + dns),
        _policy(job, "work", ["train", "merge"], ingress=scrape, egress=[]),
        _policy(
            job,
            "serve",
            ["serve"],
            ingress=[
                {"from": callers + monitoring, "ports": [{"protocol": "TCP", "port": PORT}]},
                {
                    "from": [operator, *monitoring],
                    "ports": [{"protocol": "TCP", "port": VERIFY_PORT}],
                },
            ],
            egress=[{"to": [_namespaces("kube-system"), NODE_LOCAL_DNS], **dns[0]}],
        ),
    ]


def _namespaces(*wanted: str) -> dict[str, Any]:
    """Return the peer that stands for every pod of some namespaces."""
    if len(wanted) == 1:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE: wanted[0]}}}
    chosen = {"key": NAMESPACE, "operator": "In", "values": sorted(set(wanted))}
    return {"namespaceSelector": {"matchExpressions": [chosen]}}


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
