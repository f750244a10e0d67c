"""NetworkPolicies of a job's pods.

Only the prepare pod has egress to data sources (``egress``). Training and merging have no egress;
serving reaches the cluster's DNS. The endpoint accepts requests from its own namespace and from the
namespaces in the spec. The owner of the namespace can admit more clients with another policy, since
policies are additive. vLLM serves its metrics on the port of its API, so the scraper namespaces can
reach both.
"""

from typing import Any

from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS
from finetune_operator.config import OperatorConfig
from finetune_operator.manifests import egress
from finetune_operator.manifests.vllm import PORT
from finetune_operator.objects import naming
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def render(job: Object, target: TargetRevision, config: OperatorConfig) -> list[dict[str, Any]]:
    """Return the three policies of a job."""
    spec = target.resolved.spec
    scrapers = sorted({config.operator_namespace, *config.scraper_namespaces})
    monitoring = [egress.namespaces(*config.scraper_namespaces)]
    callers: list[dict[str, Any]] = [{"podSelector": {}}]
    if spec.serving.allowed_namespaces:
        callers.append(egress.namespaces(*spec.serving.allowed_namespaces))
    callers += monitoring if config.scraper_namespaces else []
    prepare_egress = egress.rules(
        config, cloud_identity=spec.access.service_account_name is not None
    )

    def scraped(port: int) -> dict[str, Any]:
        peers = [egress.namespaces(*scrapers)]
        return {"from": peers, "ports": [{"protocol": "TCP", "port": port}]}

    return [
        _policy(
            job, "prepare", ["prepare"], ingress=[scraped(TRAINER_METRICS)], egress=prepare_egress
        ),
        _policy(job, "work", ["train", "merge"], ingress=[scraped(TRAINER_METRICS)], egress=[]),
        _policy(
            job,
            "serve",
            ["serve"],
            ingress=[
                {"from": callers, "ports": [{"protocol": "TCP", "port": PORT}]},
                scraped(VERIFIER_METRICS),
            ],
            egress=egress.dns(config),
        ),
    ]


def _policy(
    job: Object, suffix: str, stages: list[str], *, ingress: list[Any], egress: list[Any]
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
                "matchExpressions": [{"key": naming.STAGE, "operator": "In", "values": stages}],
            },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }
