"""The FineTuneEndpoint that serves the adapter of a job beside those of other jobs. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.contracts.publish_targets import SharedEndpoint
from finetune_api.revision_hash import digest
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.config import Settings
from finetune_operator.objects import conditions, status_view
from finetune_operator.revisions.sharing import settings as endpoints
from finetune_operator.types import Object

CANNOT_SERVE = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NOT_ALLOWED,
        Reason.SIGNING_KEY_MISSING,
        Reason.UNSUPPORTED_VERSION,
    }
)
"""Reasons of an endpoint that serves no further model before an edit, or an administrator, changes
that. In all other states, it may serve by the time a model is trained."""

REFUSED = frozenset({str(Reason.NAME_CONFLICT), str(Reason.ENDPOINT_FULL)})
"""States of names that the endpoint does not serve."""

VERIFIED_WITH: dict[str, bool | set[str]] = {
    "base": True,
    "dtype": True,
    "max_model_len": True,
    "gpu_memory_utilization": True,
    "allow_inconclusive": True,
    "lora": {"max_rank"},
    "resources": True,
    "placement": True,
}
"""Fields of an endpoint whose change can give an adapter that failed another result: what it must
suit, how vLLM computes, and whether vLLM has the memory to answer."""


@dataclass(frozen=True, kw_only=True)
class CannotServe:
    """Why an endpoint cannot serve another model. The message is a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class JobEndpoint:
    """The endpoint of a job, which exists."""

    name: str
    uid: str
    verified_with: str
    """Hash of the fields on which the result of a verification depends."""

    limits: SharedEndpoint
    """What an adapter must suit."""

    size: str
    """Size of its volume in the spec, where an adapter must fit."""

    volume: str | None
    """UID of the claim that has the adapters; None before the first one is created."""

    has_folder: bool
    """Whether its status lists the folder of the job. A job publishes to no other folder: nobody
    would remove it after the job was deleted."""

    cannot_serve: CannotServe | None
    """None if it may serve the adapter."""

    kept: tuple[str, ...]
    """The adapters of the job that the endpoint serves, or that it is to serve next. Publishing
    another one removes the rest."""


def name_of(spec: FineTuneJobSpec) -> str | None:
    """Return the name of the endpoint that must serve the adapter; None for serving pods."""
    serving = spec.serving
    if not serving.enabled or serving.mode != SHARED or serving.endpoint_ref is None:
        return None
    return serving.endpoint_ref.name


def find(
    job: Object, spec: FineTuneJobSpec, existing: Iterable[Object], settings: Settings
) -> JobEndpoint | None:
    """Return the endpoint in the spec of a job. existing: those of the snapshot.

    Raise InvalidSpec.
    """
    name = name_of(spec)
    endpoint = next((item for item in existing if item["metadata"]["name"] == name), None)
    if endpoint is None or name is None:
        return None
    uid = endpoint["metadata"]["uid"]
    desired = endpoints.resolve(endpoint, settings).spec
    status = endpoint.get("status") or {}
    base = PreparedBase.model_validate(status.get("base") or {}, extra="ignore", by_name=False)
    return JobEndpoint(
        name=name,
        uid=uid,
        verified_with=digest(desired.model_dump(mode="json", include=VERIFIED_WITH)),
        limits=SharedEndpoint(
            name=name,
            base=desired.base,
            max_rank=desired.lora.max_rank,
            model=desired.model.source,
            source=base.source,
            codes=base.codes,
        ),
        size=desired.storage.size,
        volume=status.get("volume"),
        has_folder=any(
            folder.get("uid") == job["metadata"]["uid"] for folder in status.get("folders") or ()
        ),
        cannot_serve=_cannot_serve(endpoint) or _reserved_name(job, spec, endpoint),
        kept=_kept(job, endpoint),
    )


def _kept(job: Object, endpoint: Object) -> tuple[str, ...]:
    status = endpoint.get("status") or {}
    place = endpoint["metadata"]["uid"], status.get("volume")
    published = (
        model["adapter"]
        for model in status_view.shared_models(job)
        if (model.get("endpointUID"), model.get("volume")) == place
    )
    listed = status.get("models") or ()
    own = (
        listed_model
        for listed_model in listed
        if listed_model.get("job") == job["metadata"]["name"]
    )
    answering = (listed_model["answers"] for listed_model in own if listed_model.get("answers"))
    return tuple(dict.fromkeys((*published, *answering)))


def _reserved_name(job: Object, spec: FineTuneJobSpec, endpoint: Object) -> CannotServe | None:
    """Return why an endpoint cannot serve a name of a job, unless it serves the name already."""
    own, name = job["metadata"]["name"], endpoint["metadata"]["name"]
    held = {
        model["name"]
        for model in (endpoint.get("status") or {}).get("models") or ()
        if model.get("job") == own and model.get("state") not in REFUSED
    }
    names = spec.serving.served_model_names or [own]
    reserved = next(
        (model for model in names if model.endswith(BASE_SUFFIX) and model not in held), None
    )
    if reserved is None:
        return None
    return CannotServe(reason=Reason.NAME_CONFLICT, message=reserved_message(reserved, own, name))


def reserved_message(model: str, job: str, endpoint: str) -> str:
    """Return why an endpoint does not serve a model name of a job that ends in the suffix."""
    return (
        f"The model name {model} ends in {BASE_SUFFIX}, which is reserved: FineTuneEndpoint "
        f"{endpoint} answers with the base model under NAME{BASE_SUFFIX}. Rename it: set "
        f"spec.serving.servedModelNames of FineTuneJob {job} to names that do not end in "
        f"{BASE_SUFFIX}."
    )


def _cannot_serve(endpoint: Object) -> CannotServe | None:
    name = endpoint["metadata"]["name"]
    if "deletionTimestamp" in endpoint["metadata"]:
        return CannotServe(
            reason=Reason.ENDPOINT_NOT_FOUND,
            message=f"FineTuneEndpoint {name} is being deleted: create it again, or set "
            "spec.serving.endpointRef.name to another endpoint.",
        )
    status, ready = endpoint.get("status") or {}, conditions.get(endpoint, "Ready")
    has_failed = (status.get("baseAttempt") or {}).get("outcome") == "Failed"
    if ready.get("reason") not in CANNOT_SERVE and not has_failed:
        return None
    return CannotServe(
        reason=ready.get("reason", Reason.FAILED),
        message=f"FineTuneEndpoint {name} cannot serve the model: {ready.get('message', '')}",
    )
