"""NetworkPolicies: who may talk to a job's pods, and whom they may talk to.

Only the stage pod reaches out, to its sources (``egress``). Training and merging reach nobody,
serving reaches the cluster's DNS. The endpoint answers the namespaces that the spec names, its own
by default; further callers are admitted by a policy of the namespace's owner, since policies add
up. Prometheus reads vLLM's metrics where requests go too: on that port the monitoring namespaces
may do both.
"""

from typing import Any

from finetune_operator.config import OperatorConfig
from finetune_operator.manifests import egress
from finetune_operator.manifests.jobs import METRICS_PORT
from finetune_operator.manifests.verifier import PORT as VERIFY_PORT
from finetune_operator.manifests.vllm import PORT
from finetune_operator.objects import naming
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def render(job: Object, target: TargetRevision, config: OperatorConfig) -> list[dict[str, Any]]:
    """Return the three policies of a job."""
    spec = target.resolved.spec
    collectors = sorted({config.operator_namespace, *config.scraper_namespaces})
    monitoring = [egress.namespaces(*config.scraper_namespaces)]
    callers = (
        [egress.namespaces(*spec.serving.allowed_namespaces)]
        if spec.serving.allowed_namespaces
        else [{"podSelector": {}}]
    )
    callers += monitoring if config.scraper_namespaces else []
    outwards = egress.rules(config, cloud_identity=spec.access.service_account_name is not None)

    def collected(port: int) -> dict[str, Any]:
        peers = [egress.namespaces(*collectors)]
        return {"from": peers, "ports": [{"protocol": "TCP", "port": port}]}

    return [
        _policy(job, "prepare", ["prepare"], ingress=[collected(METRICS_PORT)], egress=outwards),
        _policy(job, "work", ["train", "merge"], ingress=[collected(METRICS_PORT)], egress=[]),
        _policy(
            job,
            "serve",
            ["serve"],
            ingress=[
                {"from": callers, "ports": [{"protocol": "TCP", "port": PORT}]},
                collected(VERIFY_PORT),
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
