"""The models that jobs have published to a shared endpoint. Pure.

Only the status of a job counts, which no tenant can write. A job stays attached with the model that
it published last, so that model answers until the next one is published and proved, or until the
job serves on its own.
"""

import contextlib
from collections.abc import Iterable, Iterator
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
    is_present: bool
    """Whether the endpoint's present claim has the model. A job keeps its names and its place while
    it publishes to another claim."""

    @property
    def age(self) -> tuple[str, str]:
        """Order of the jobs: the oldest one first."""
        return self.created, self.uid


def attached(jobs: Iterable[Object], endpoint: Object, volume: str | None) -> tuple[Attached, ...]:
    """Return the jobs whose models an endpoint serves, the oldest one first.

    jobs: of the endpoint's namespace; volume: UID of the endpoint's claim, None if it has none.
    """
    candidates = (_attached(job, endpoint, volume) for job in jobs)
    return tuple(sorted(filter(None, candidates), key=lambda attached_job: attached_job.age))


def published(job: Object) -> Iterator[SharedModel]:
    """Yield the models that a job has published to endpoints, without those of an unknown form."""
    for model in status_view.shared_models(job):
        with contextlib.suppress(ValidationError):
            yield SharedModel.model_validate(model, by_name=False)


def _attached(job: Object, endpoint: Object, volume: str | None) -> Attached | None:
    if "deletionTimestamp" in job["metadata"]:
        return None
    uid, place = job["metadata"]["uid"], endpoint["metadata"]["uid"]
    # An earlier endpoint of this name has another uid: its claim had the adapter.
    model = next((model for model in published(job) if model.endpoint_uid == place), None)
    if model is None or not model.path.startswith(f"{published_root(uid)}/"):
        return None
    return Attached(
        job=job["metadata"]["name"],
        uid=uid,
        created=created(job),
        model=model,
        is_present=volume is not None and model.volume == volume,
    )
