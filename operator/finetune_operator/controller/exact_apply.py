"""Writes to an existing object in the version that was read.

A server-side apply leaves the fields that it does not name, and the entries that other clients
added to a list of named entries: another owner, a label of the pod template, a port of a Service.
``apply_exactly`` removes them.
"""

from typing import Any

from finetune_operator.actions import Patch
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal
from finetune_operator.objects.contents import surplus
from finetune_operator.objects.naming import VOLUME, has_exact_owners
from finetune_operator.types import Object


async def apply_exactly(kube: Kube, body: Object, existing: Object | None) -> Object:
    """Apply an object without the owners and values of other clients; return it.

    existing: in the version that was read, None if there is none.
    """
    if existing is not None and not has_exact_owners(body, existing):
        # First: the API server rejects the apply while another owner is the controller.
        owners = {"metadata": {"ownerReferences": body["metadata"]["ownerReferences"]}}
        existing = await patched(kube, Patch(object=existing, changes=owners))
    try:
        written = await _applied(kube, body, existing)
    except Terminal:
        # A value of another client can make the merged object invalid: a port with another number
        # stays next to ours, with the same name.
        corrected = await _without_surplus(kube, body) if existing is not None else None
        if corrected is None:
            raise
        written = await _applied(kube, body, corrected)
    if body["kind"] == VOLUME:
        # Its spec also has the values of its provisioner.
        return written
    others = surplus(body, written)
    if not others:
        return written
    # Without the version: a controller that reacts to the apply may have written the status.
    return await kube.merge(written, {**others, "metadata": {"uid": written["metadata"]["uid"]}})


async def _applied(kube: Kube, body: Object, existing: Object | None) -> Object:
    version = {} if existing is None else fence(existing)
    return await kube.apply({**body, "metadata": {**body["metadata"], **version}})


async def _without_surplus(kube: Kube, body: Object) -> Object | None:
    """Remove the values of other clients from an object; return it, or None if it has none."""
    metadata = body["metadata"]
    live = await kube.get(body["kind"], metadata["namespace"], metadata["name"])
    if live is None or body["kind"] == VOLUME or not (others := surplus(body, live)):
        return None
    return await patched(kube, Patch(object=live, changes=others))


async def patched(kube: Kube, patch: Patch) -> Object:
    """Merge changes into an object; return it. Raises Conflict if it changed since it was read."""
    metadata = {**patch.changes.get("metadata", {}), **fence(patch.object)}
    return await kube.merge(patch.object, {**patch.changes, "metadata": metadata})


def fence(existing: Object) -> dict[str, Any]:
    """Return uid and resourceVersion of an object, the preconditions of a write."""
    return {key: existing["metadata"][key] for key in ("uid", "resourceVersion")}
