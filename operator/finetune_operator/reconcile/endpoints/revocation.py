"""Names that are removed from an endpoint that cannot be planned. Pure.

Its pod serves the list that it has, and nothing is added to it. But a model that was deleted, or
moved away, must not answer for as long as the cause lasts. So names of jobs that have left are
removed from the list in the ConfigMap. Users can change it, so only a list whose digest is in the
status counts.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from finetune_api.contracts.endpoint import WantedName, WantedSet
from finetune_api.v1alpha1.endpoints.status import FineTuneEndpointStatus
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Apply
from finetune_operator.manifests.endpoints import objects
from finetune_operator.objects import endpoints, naming
from finetune_operator.reconcile.endpoints.models import answering
from finetune_operator.reconcile.endpoints.names import Names, digest_of, numbered, signed
from finetune_operator.reconcile.endpoints.report import report
from finetune_operator.revisions.sharing.models import attached
from finetune_operator.types import EndpointSnapshot, Object, Plan


def stopped(
    snapshot: EndpointSnapshot,
    previous: FineTuneEndpointStatus,
    *,
    reason: Reason,
    message: str,
    now: datetime,
) -> Plan:
    """Return the plan of an endpoint that a spec or a policy stops. previous: its status."""
    plan = report(snapshot, reason=reason, message=message, now=now)
    endpoint, key, listed = snapshot.endpoint, snapshot.settings.signing_key, _listed(snapshot)
    if key is None or listed is None or previous.wanted is None:
        return plan
    present = {
        (job.job, name)
        for job in attached(snapshot.finetunejobs, endpoint, previous.volume)
        for name in job.model.names
    }
    kept = tuple(
        wanted_name for wanted_name in listed if (wanted_name.job, wanted_name.name) in present
    )
    if kept == listed or previous.wanted.digest not in (digest_of(listed), digest_of(kept)):
        return plan
    names = Names(wanted=kept, unlisted=(), free=previous.free_slots or 0)
    number = numbered(names, previous.wanted, snapshot.gate, now)
    jobs = {job for job, _ in present}
    models = tuple(model for model in previous.models if model.job in jobs)
    changed = previous.model_copy(
        update={
            "wanted": number,
            "models": list(models),
            "summary": f"{answering(models)}/{len(models)}",
        }
    )
    planned: Object = changed.model_dump(mode="json", by_alias=True, exclude_none=True)
    document = signed(endpoint["metadata"]["uid"], names, number, key)
    return replace(
        report(snapshot, reason=reason, message=message, now=now, planned=planned),
        actions=(Apply(object=objects.configmap(endpoint, document)),),
    )


def _listed(snapshot: EndpointSnapshot) -> Sequence[WantedName] | None:
    """Return the names in the endpoint's own ConfigMap, None if it has no list."""
    name = endpoints.object_name(snapshot.endpoint["metadata"]["name"])
    for configmap in snapshot.configmaps:
        if configmap["metadata"]["name"] == name and naming.owned_by(snapshot.endpoint, configmap):
            try:
                envelope = json.loads((configmap.get("data") or {})[objects.WANTED])
                payload = base64.b64decode(envelope["payload"])
                return WantedSet.model_validate_json(payload, by_name=False).names
            except (KeyError, TypeError, ValueError, ValidationError):
                return None
    return None
