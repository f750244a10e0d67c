"""The FineTuneEndpoint that serves the adapter of a job beside those of other jobs. Pure."""

from dataclasses import dataclass

from finetune_api.contracts.stage_request import SharedEndpoint
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.config import Settings
from finetune_operator.objects import status_view
from finetune_operator.revisions.sharing import settings as endpoints
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class JobEndpoint:
    """The endpoint of a job, which exists."""

    name: str
    uid: str
    limits: SharedEndpoint
    """What an adapter must suit."""

    space: tuple[str, str | None]
    """Size of its volume in the spec, and UID of the claim: where an adapter must fit."""

    current: str | None
    """The adapter that the endpoint has of the job, which it serves until another is verified."""


def name_of(spec: FineTuneJobSpec) -> str | None:
    """Return the name of the endpoint that must serve the adapter; None for serving pods."""
    serving = spec.serving
    if not serving.enabled or serving.mode != SHARED or serving.endpoint_ref is None:
        return None
    return serving.endpoint_ref.name


def find(
    job: Object, spec: FineTuneJobSpec, endpoint: Object | None, settings: Settings
) -> JobEndpoint | None:
    """Return the endpoint in the spec of a job. endpoint: of the snapshot. Raise InvalidSpec."""
    name = name_of(spec)
    if endpoint is None or name is None or endpoint["metadata"]["name"] != name:
        return None
    uid = endpoint["metadata"]["uid"]
    desired = endpoints.resolve(endpoint, settings).spec
    status = endpoint.get("status") or {}
    base = PreparedBase.model_validate(status.get("base") or {}, extra="ignore", by_name=False)
    model = status_view.shared_model(job) or {}
    return JobEndpoint(
        name=name,
        uid=uid,
        limits=SharedEndpoint(
            name=name,
            base=desired.base,
            max_rank=desired.lora.max_rank,
            model=desired.model.source,
            source=base.source,
            codes=base.codes,
        ),
        space=(desired.storage.size, status.get("volume")),
        current=model.get("adapter") if model.get("endpointUID") == uid else None,
    )
