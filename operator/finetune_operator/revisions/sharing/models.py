"""The models that jobs have published to a shared endpoint. Pure.

Only the status of a job counts, which no tenant can write. A job stays attached with the model that
it published last, so that model answers until the next one is published and proved, or until the
job serves on its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.contracts.endpoint import published_root
from finetune_api.v1alpha1.status.serving import SharedModel
from finetune_operator.objects import status_view
from finetune_operator.objects.jobs import created
from finetune_operator.types import Object


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
    candidates = (_attached(job, endpoint) for job in jobs)
    return tuple(sorted(filter(None, candidates), key=lambda attached_job: attached_job.age))


def _attached(job: Object, endpoint: Object) -> Attached | None:
    if "deletionTimestamp" in job["metadata"]:
        return None
    try:
        model = SharedModel.model_validate(status_view.shared_model(job) or {}, by_name=False)
    except ValidationError:
        return None
    uid = job["metadata"]["uid"]
    if model.endpoint_uid != endpoint["metadata"]["uid"]:
        # An earlier endpoint of this name: its claim had the adapter.
        return None
    if not model.path.startswith(f"{published_root(uid)}/"):
        return None
    return Attached(job=job["metadata"]["name"], uid=uid, created=created(job), model=model)
