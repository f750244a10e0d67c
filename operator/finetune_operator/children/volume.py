"""The volume of a revision: base, data, checkpoints, adapter and merged model.

It is created once. After that only its size changes, and only upwards: an API server refuses every
other change of a claim.
"""

from collections.abc import Iterable
from typing import Any

from finetune_api.quantity import amount
from finetune_operator.children import names
from finetune_operator.revisions import Chosen
from finetune_operator.state import Action, Apply, Create, Object


def render(job: Object, chosen: Chosen) -> dict[str, Any]:
    """Return the PersistentVolumeClaim of the chosen revision."""
    storage = chosen.resolved.spec.storage
    spec: dict[str, Any] = {
        "accessModes": [storage.access_mode],
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


def ensure(job: Object, chosen: Chosen, present: Iterable[Object]) -> list[Action]:
    """Return what makes the volume be there, and be as large as the spec asks for.

    Somebody else's claim of that name is not taken for it: its creation is then refused.
    """
    wanted = render(job, chosen)
    for volume in present:
        if volume["metadata"]["name"] == wanted["metadata"]["name"] and names.owned_by(job, volume):
            if not _grows(volume, wanted):
                return []
            wanted["spec"].pop("storageClassName", None)
            wanted["spec"]["accessModes"] = volume["spec"]["accessModes"]
            return [Apply(object=wanted)]
    return [Create(object=wanted)]


def _grows(present: Object, wanted: Object) -> bool:
    """Tell whether a claim asks for more than one that is there."""
    sizes = [str(claim["spec"]["resources"]["requests"]["storage"]) for claim in (present, wanted)]
    try:
        return amount(sizes[0]) < amount(sizes[1])
    except ValueError:
        # Somebody resized it by hand, in a form that this API does not take: it is theirs now.
        return False
