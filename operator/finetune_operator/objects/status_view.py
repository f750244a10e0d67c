"""The status of a FineTuneJob, parsed once: nothing else reads it by the names of its fields.

The status is an input of the next reconcile: the ledger, transition times of conditions, and
measurements that cannot be read again after their pod is gone. A part that is missing is None or
empty, so the operator can also report on a status that another version has written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune_operator.objects.stages import is_job_stage
from finetune_operator.types import Object

Values = Mapping[str, Any]
NOTHING: Values = {}


class AttemptView(NamedTuple):
    """The latest attempt at a stage."""

    stage: str
    build: str | None
    number: int
    outcome: str
    reason: str | None

    @property
    def runs_as_job(self) -> bool:
        """Whether the attempt is a Job, not a Deployment."""
        return is_job_stage(self.stage)


class RevisionView(NamedTuple):
    """A revision in the ledger."""

    name: str
    attempts: tuple[AttemptView, ...]
    gpu_seconds: int
    untrusted_volume: str | None
    operator: str
    """Frozen configuration of the operator, as JSON."""
    parent: str | None
    """The job whose adapter was frozen with the revision."""


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """The parts of a status that the operator depends on."""

    observed_generation: int | None
    conditions: Mapping[str, Values]
    """By type."""

    revision: str | None
    build: str | None
    serving_build: str | None
    release_planned_at: str | None
    """When the stable build was to release its GPU, as announced."""

    idle_after_seconds: int | None
    last_request_at: str | None
    idle_since: str | None
    """When the pods of ``serving_build`` were stopped because no requests came."""

    endpoint: str | None
    warnings: tuple[str, ...]
    progress: str | None
    eta: str | None
    preparation: Values
    training: Values
    against_serving: Values | None
    """Comparison of ``build`` with the build that it replaced."""

    evaluation: Values
    """Decision of the evaluation gate about ``build``."""

    verification: Values
    shared_models: tuple[Values, ...]
    """The adapters that the job has published to FineTuneEndpoints: that of ``sharedModel``, and
    that of ``formerModel``."""

    budget: Values
    """What a job that waits for a budget needs, empty if it does not wait."""

    volume_owners: tuple[str, ...]
    """Uids of the FineTuneJobs whose volumes the job uses."""

    published_digests: tuple[str, ...]
    """Of the contents that the job has published, the latest last."""

    ledger_version: int | None
    ledger: tuple[Values, ...]
    """Not parsed: it may have been written by another version."""

    def is_about(self, revision: str) -> bool:
        """Report whether progress and warnings describe a revision."""
        return self.revision == revision

    @property
    def ready_reason(self) -> str:
        """Reason of the condition Ready, Unknown if it is missing."""
        return str(self.conditions.get("Ready", NOTHING).get("reason", "Unknown"))

    def revisions(self) -> Iterator[RevisionView]:
        """Yield the revisions in the ledger, as far as every version writes them."""
        for record in self.ledger:
            frozen = record.get("frozen") or NOTHING
            yield RevisionView(
                name=str(record.get("revision")),
                attempts=tuple(
                    AttemptView(
                        stage=str(attempt.get("stage")),
                        build=attempt.get("build"),
                        number=int(attempt.get("attempt") or 0),
                        outcome=str(attempt.get("outcome")),
                        reason=attempt.get("reason"),
                    )
                    for attempt in record.get("stages") or ()
                ),
                gpu_seconds=int(record.get("gpuSeconds") or 0),
                untrusted_volume=record.get("untrustedVolume"),
                operator=str(frozen.get("operator", "")),
                parent=(frozen.get("parent") or NOTHING).get("job"),
            )


def of_job(job: Object) -> StatusView:
    """Return the status that a FineTuneJob has now, an empty one before its first reconcile."""
    return of(job.get("status") or NOTHING)


def of(status: Values) -> StatusView:
    """Return the view of a status."""
    serving = status.get("serving") or NOTHING
    return StatusView(
        observed_generation=status.get("observedGeneration"),
        conditions={condition["type"]: condition for condition in status.get("conditions") or ()},
        revision=status.get("revision"),
        build=status.get("build"),
        serving_build=serving.get("build"),
        release_planned_at=serving.get("releasePlannedAt"),
        idle_after_seconds=serving.get("idleAfterSeconds"),
        last_request_at=serving.get("lastRequestAt"),
        idle_since=serving.get("idleSince"),
        endpoint=status.get("endpoint"),
        warnings=tuple(status.get("warnings") or ()),
        progress=status.get("progress"),
        eta=status.get("eta"),
        preparation=status.get("preparation") or NOTHING,
        training=status.get("training") or NOTHING,
        against_serving=(status.get("evaluation") or NOTHING).get("againstServing"),
        evaluation=status.get("evaluation") or NOTHING,
        verification=status.get("verification") or NOTHING,
        shared_models=_shared_models(status),
        budget=status.get("budget") or NOTHING,
        volume_owners=volume_owners(status),
        published_digests=tuple(status.get("publishedDigests") or ()),
        ledger_version=status.get("ledgerVersion"),
        ledger=tuple(status.get("revisions") or ()),
    )


def volume_owners(status: Values) -> tuple[str, ...]:
    """Return ``StatusView.volume_owners`` alone, which is read for every child of a job."""
    return tuple(status.get("volumeOwners") or ())


def endpoint_names(job: Object) -> tuple[str, ...]:
    """Return the names of the FineTuneEndpoints that a job needs to be planned.

    A job that has left an endpoint is served by it until its own pods, or another one, answer.
    """
    own = ((job["spec"].get("serving") or NOTHING).get("endpointRef") or NOTHING).get("name")
    names = (own, *(model.get("endpoint") for model in shared_models(job)))
    return tuple(dict.fromkeys(str(name) for name in names if name is not None))


def shared_models(job: Object) -> tuple[Values, ...]:
    """Return ``StatusView.shared_models`` alone."""
    return _shared_models(job.get("status") or NOTHING)


def _shared_models(status: Values) -> tuple[Values, ...]:
    models = (status.get("sharedModel"), status.get("formerModel"))
    return tuple(model for model in models if model is not None)
