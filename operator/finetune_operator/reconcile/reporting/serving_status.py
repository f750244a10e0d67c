"""The parts of the status about the serving build, and about the adapter at an endpoint."""

from typing import Any

from finetune_operator.manifests import serving as manifests
from finetune_operator.manifests import vllm
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.serving import endpoint_models
from finetune_operator.reconcile.serving.delivery import Delivery
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


def serving_status(
    snapshot: IndexedSnapshot, target: TargetRevision, delivery: Delivery, ledger: Ledger
) -> dict[str, Any]:
    """Return ``serving``, ``verification``, ``endpoint`` and the models at FineTuneEndpoints."""
    status: dict[str, Any] = {}
    if target.resolved.spec.serving.enabled:
        status |= endpoint_models.to_status(
            snapshot,
            target,
            ledger,
            vllm.names(snapshot.job, target),
            offered=delivery.is_offered,
            serving=delivery.serving,
        )
    served = delivery.state
    if served is None:
        return status | {"serving": {"summary": "-"}}
    status["serving"] = {
        "revision": served.revision,
        "build": served.build,
        "replicas": served.replicas,
        "availableReplicas": served.available_replicas,
        "selector": served.selector,
        "model": manifests.model_name(snapshot.job, target),
        "summary": served.summary,
        "releasePlannedAt": served.release_planned_at,
        "idleAfterSeconds": served.idle_after_seconds,
        "lastRequestAt": served.last_request_at,
        "idleSince": served.idle_since,
    }
    status["verification"] = verification_status(snapshot, ledger, served.build)
    if snapshot.service is not None:
        status["endpoint"] = manifests.endpoint(snapshot.job)
    return status
