"""The models that jobs have published to a shared endpoint. Pure.

Only the status of a job counts, which no tenant can write. A job stays attached with the model that
it published last, so that model answers until the next one is published and proved, or until the
job serves on its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError

from finetune_api.base import SHA256, StatusModel
from finetune_api.contracts.endpoint import PATH_BELOW_CLAIM, PUBLIC_NAME, published_root
from finetune_operator.objects import status_view
from finetune_operator.objects.jobs import created
from finetune_operator.types import Object

Digest = Annotated[str, Field(pattern=SHA256)]


class SharedModel(StatusModel):
    """``status.sharedModel`` of a job."""

    endpoint: str
    endpoint_uid: str = Field(alias="endpointUID")
    names: tuple[Annotated[str, Field(pattern=PUBLIC_NAME)], ...] = Field(min_length=1)
    revision: Digest
    adapter: Digest
    reference: Digest | None = None
    template: Digest | None = None
    path: str = Field(pattern=PATH_BELOW_CLAIM)


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A job with a model on the claim of an endpoint."""

    job: str
    uid: str
    created: str
    model: SharedModel

    @property
    def age(self) -> tuple[str, str]:
        """Order of the jobs: the oldest one first."""
        return self.created, self.uid


def attached(jobs: Iterable[Object], endpoint: Object) -> tuple[Attached, ...]:
    """Return the jobs whose models an endpoint serves, the oldest one first.

    jobs: of the endpoint's namespace.
    """
    found = (_attached(job, endpoint) for job in jobs)
    return tuple(sorted(filter(None, found), key=lambda each: each.age))


def _attached(job: Object, endpoint: Object) -> Attached | None:
    if "deletionTimestamp" in job["metadata"]:
        return None
    try:
        model = SharedModel.model_validate(status_view.shared_model(job) or {})
    except ValidationError:
        return None
    uid = job["metadata"]["uid"]
    if model.endpoint_uid != endpoint["metadata"]["uid"]:
        # An earlier endpoint of this name: its claim had the adapter.
        return None
    if not model.path.startswith(f"{published_root(uid)}/"):
        return None
    return Attached(job=job["metadata"]["name"], uid=uid, created=created(job), model=model)
