"""The claim of a shared endpoint in the publish pod: only the folder of the job is mounted."""

from collections.abc import Iterable
from typing import Any

from finetune_api.contracts.endpoint import published_root
from finetune_api.contracts.publish_targets import EndpointTarget
from finetune_api.v1alpha1.publishing.shared_endpoint import SharedEndpointTarget
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.objects import endpoints
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

FOLDER = "/endpoint"


def of_target(
    job: Object, target: TargetRevision, record: Revision, publish_target: PublishTarget
) -> dict[str, EndpointTarget]:
    """Return the field of the request of a target; nothing for another kind of target."""
    endpoint = target.endpoint
    if endpoint is None or not isinstance(publish_target, SharedEndpointTarget):
        return {}
    place = EndpointTarget(
        shared=endpoint.limits,
        folder=FOLDER,
        path=published_root(job["metadata"]["uid"]),
        reference=record.artifacts.reference_manifest or "",
        keep=endpoint.kept,
    )
    return {"endpoint": place}


def volumes(each_of: Iterable[PublishTarget]) -> list[dict[str, Any]]:
    """Return the volumes of the claims."""
    return [
        {
            "name": "endpoint",
            "persistentVolumeClaim": {"claimName": endpoints.object_name(publish_target.endpoint)},
        }
        for publish_target in each_of
        if isinstance(publish_target, SharedEndpointTarget)
    ]


def mounts(job: Object, each_of: Iterable[PublishTarget]) -> list[dict[str, Any]]:
    """Return the mounts. A pod of another job, or of this one, sees no other folder."""
    root = published_root(job["metadata"]["uid"])
    return [
        {"name": "endpoint", "mountPath": FOLDER, "subPath": root}
        for publish_target in each_of
        if isinstance(publish_target, SharedEndpointTarget)
    ]
