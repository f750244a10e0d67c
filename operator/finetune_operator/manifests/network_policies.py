"""NetworkPolicies of a job's pods.

Only the prepare pod has egress to data sources (``egress``). Training and merging have no egress;
serving reaches the cluster's DNS. The endpoint accepts requests from its own namespace and from the
namespaces in the spec. The owner of the namespace can admit more clients with another policy, since
policies are additive. vLLM serves its metrics on the port of its API, so the scraper namespaces can
reach both.
"""

from collections.abc import Mapping, Set
from typing import Any

from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS
from finetune_operator.config import OperatorConfig
from finetune_operator.manifests import egress
from finetune_operator.manifests.vllm import PORT
from finetune_operator.objects import naming
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

STAGES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("prepare",),
    "work": ("train", "merge"),
    "serve": ("serve",),
}
"""The stages whose pods a policy selects, by the last part of its name."""


def render(
    job: Object, target: TargetRevision, config: OperatorConfig, stages: Set[str]
) -> list[dict[str, Any]]:
    """Return the policies of a job that select pods of ``stages``."""
    rules = {"prepare": _prepare, "work": _work, "serve": _serve}
    return [
        _policy(job, suffix, rules[suffix](target, config))
        for suffix, selected in STAGES.items()
        if not stages.isdisjoint(selected)
    ]


def _prepare(target: TargetRevision, config: OperatorConfig) -> dict[str, list[Any]]:
    identity = target.resolved.spec.access.service_account_name is not None
    return {
        "ingress": [_scraped(config, TRAINER_METRICS)],
        "egress": egress.rules(config, cloud_identity=identity),
    }


def _work(target: TargetRevision, config: OperatorConfig) -> dict[str, list[Any]]:
    return {"ingress": [_scraped(config, TRAINER_METRICS)], "egress": []}


def _serve(target: TargetRevision, config: OperatorConfig) -> dict[str, list[Any]]:
    allowed = target.resolved.spec.serving.allowed_namespaces
    callers: list[dict[str, Any]] = [{"podSelector": {}}]
    callers += [egress.namespaces(*allowed)] if allowed else []
    if config.scraper_namespaces:
        callers.append(egress.namespaces(*config.scraper_namespaces))
    return {
        "ingress": [
            {"from": callers, "ports": [{"protocol": "TCP", "port": PORT}]},
            _scraped(config, VERIFIER_METRICS),
        ],
        "egress": egress.dns(config),
    }


def _scraped(config: OperatorConfig, port: int) -> dict[str, Any]:
    peers = [egress.namespaces(*sorted({config.operator_namespace, *config.scraper_namespaces}))]
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port}]}


def _policy(job: Object, suffix: str, rules: Mapping[str, list[Any]]) -> dict[str, Any]:
    name = job["metadata"]["name"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": naming.metadata(
            job, f"{name}-{suffix}", naming.labels(job, component="network")
        ),
        "spec": {
            "podSelector": {
                "matchLabels": {naming.JOB: name},
                "matchExpressions": [
                    {"key": naming.STAGE, "operator": "In", "values": [*STAGES[suffix]]}
                ],
            },
            "policyTypes": ["Ingress", "Egress"],
            **rules,
        },
    }
