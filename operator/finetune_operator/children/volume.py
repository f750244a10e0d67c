"""The volume of a revision: base, data, checkpoints, adapter and merged model."""

from typing import Any

from finetune_operator.children import names
from finetune_operator.revisions import Chosen
from finetune_operator.state import Object


def render(job: Object, chosen: Chosen) -> dict[str, Any]:
    """Return the PersistentVolumeClaim of the chosen revision."""
    storage = chosen.resolved.spec.storage
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": names.metadata(
            job,
            names.revision_name(job["metadata"]["name"], chosen.revision),
            names.labels(
                job,
                component="volume",
                extra=chosen.resolved.spec.pod_metadata.labels,
                revision=chosen.revision,
            ),
        ),
        "spec": spec,
    }
