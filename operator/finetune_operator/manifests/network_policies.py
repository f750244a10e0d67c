"""NetworkPolicies of a job's pods.

Only the prepare pod has egress to data sources, and only the publish pod to the targets of the job
(``egress``). Training and merging have no egress;
serving reaches the cluster's DNS. The endpoint accepts requests from its own namespace and from the
namespaces in the spec. The owner of the namespace can admit more clients with another policy, since
policies are additive. vLLM serves its metrics on the port of its API, so the scraper namespaces can
reach both.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any

from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS
from finetune_operator.config import Settings
from finetune_operator.manifests import egress, sources
from finetune_operator.manifests.publishing import access as publishing
from finetune_operator.manifests.vllm import PORT
from finetune_operator.objects import naming
from finetune_operator.objects.stages import STAGES, JobStage, StageDefinition
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def render(
    job: Object, target: TargetRevision, config: Settings, stages: Set[str]
) -> list[dict[str, Any]]:
    """Return the policies of a job that select pods of ``stages``."""
    selected: dict[str, list[StageDefinition]] = {}
    for stage in STAGES:
        selected.setdefault(stage.network, []).append(stage)
    return [
        _policy(job, suffix, group, _rules(group[0], target, config))
        for suffix, group in selected.items()
        if not stages.isdisjoint(stage.name for stage in group)
    ]


def _rules(
    stage: StageDefinition, target: TargetRevision, config: Settings
) -> dict[str, list[Any]]:
    if not isinstance(stage, JobStage):
        return _serve(target, config)
    rules: list[Any] = []
    if stage.reads_sources:
        # The request of the pod has the hub of its revision.
        identity = sources.has_identity(target.resolved.spec)
        rules = egress.rules(target.config, cloud_identity=identity)
    elif stage.publishes:
        identity, config_ = publishing.connections(target, config)
        rules = egress.rules(config_, cloud_identity=identity)
    return {"ingress": [_scraped(config, TRAINER_METRICS)], "egress": rules}


def _serve(target: TargetRevision, config: Settings) -> dict[str, list[Any]]:
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


def _scraped(config: Settings, port: int) -> dict[str, Any]:
    peers = [egress.namespaces(*sorted({config.operator_namespace, *config.scraper_namespaces}))]
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port}]}


def _policy(
    job: Object, suffix: str, stages: Iterable[StageDefinition], rules: Mapping[str, list[Any]]
) -> dict[str, Any]:
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
                    {
                        "key": naming.STAGE,
                        "operator": "In",
                        "values": [stage.name for stage in stages],
                    }
                ],
            },
            "policyTypes": ["Ingress", "Egress"],
            **rules,
        },
    }
