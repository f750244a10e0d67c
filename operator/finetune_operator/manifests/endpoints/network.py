"""NetworkPolicies of the pods of an endpoint.

The prepare pod has the egress of the prepare pod of a job. The serving pod reaches the DNS of the
cluster only. Callers reach its gate; the port with the names of all jobs is for the operator. The
pod that removes folders has no connections.
"""

from typing import Any

from finetune_api.contracts.ports import GATE, TRAINER_METRICS, VERIFIER_METRICS
from finetune_operator.manifests import egress
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import Object


def preparing(endpoint: Object, target: TargetEndpoint) -> dict[str, Any]:
    """Return the policy of the pods that prepare the base."""
    name = endpoints.base_policy_name(endpoint["metadata"]["name"])
    return _policy(
        endpoint,
        name,
        endpoints.BASE,
        ingress=[_from_operator(target, TRAINER_METRICS)],
        egress_rules=egress.rules(target.config, cloud_identity=False),
    )


def serving(endpoint: Object, target: TargetEndpoint) -> dict[str, Any]:
    """Return the policy of the serving pod."""
    allowed = target.spec.access.allowed_namespaces
    callers: list[dict[str, Any]] = [{"podSelector": {}}]
    callers += [egress.namespaces(*allowed)] if allowed else []
    return _policy(
        endpoint,
        endpoints.object_name(endpoint["metadata"]["name"]),
        endpoints.SERVING,
        ingress=[
            {"from": callers, "ports": [{"protocol": "TCP", "port": GATE}]},
            _from_operator(target, VERIFIER_METRICS),
        ],
        egress_rules=egress.dns(target.config),
    )


def pruning(endpoint: Object) -> dict[str, Any]:
    """Return the policy of the pods that remove folders: they have no connections."""
    name = endpoints.prune_policy_name(endpoint["metadata"]["name"])
    return _policy(endpoint, name, endpoints.PRUNE, ingress=[], egress_rules=[])


def _from_operator(target: TargetEndpoint, port: int) -> dict[str, Any]:
    peer = egress.namespaces(target.config.operator_namespace)
    return {"from": [peer], "ports": [{"protocol": "TCP", "port": port}]}


def _policy(
    endpoint: Object, name: str, stage: str, *, ingress: list[Any], egress_rules: list[Any]
) -> dict[str, Any]:
    labels = endpoints.labels(endpoint, component="network")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": naming.metadata(endpoint, name, labels),
        "spec": {
            "podSelector": {"matchLabels": endpoints.selector(endpoint, stage)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress_rules,
        },
    }
