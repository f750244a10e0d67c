"""The PersistentVolumeClaim of a revision: base model, data, checkpoints, adapter, merged model.

After its creation only its size (upwards) and its owner change. A volume that outlives its job
(``storage.deletionPolicy: Retain``) has no owner reference; a label names its job. The API server
rejects other changes to a claim; a claim that is not bound yet contains nothing and is replaced.
"""

from typing import Any

from finetune_operator.objects import naming
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def render(job: Object, target: TargetRevision) -> dict[str, Any]:
    """Return the PersistentVolumeClaim of the target revision."""
    storage = target.resolved.spec.storage
    spec: dict[str, Any] = {
        "accessModes": [storage.access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    metadata = naming.metadata(
        job,
        naming.revision_name(job["metadata"]["name"], target.revision),
        {
            **naming.labels(
                job,
                component="volume",
                extra=target.resolved.spec.pod_metadata.labels,
                revision=target.revision,
            ),
            naming.JOB_UID: job["metadata"]["uid"],
        },
    )
    if outlives(target):
        del metadata["ownerReferences"]
    return {
        "apiVersion": "v1",
        "kind": naming.VOLUME,
        "metadata": metadata,
        "spec": spec,
    }


def outlives(target: TargetRevision) -> bool:
    """Report whether the volume is kept when its job is deleted."""
    return target.resolved.spec.storage.deletion_policy == "Retain"
