"""The models of a job at its FineTuneEndpoints, as the statuses of endpoints report them. Pure.

A report counts only about the adapter of the build, and only if it is of the endpoint that has the
published files: another endpoint of the same name has another claim.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.endpoint import published_path
from finetune_api.v1alpha1.endpoints.status import EndpointModelStatus
from finetune_api.v1alpha1.publishing.shared_endpoint import SharedEndpointTarget
from finetune_api.v1alpha1.status.ledger import FrozenConfiguration
from finetune_api.v1alpha1.status.serving import SharedModel, VerificationStatus
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.serving.state import endpoint_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.sharing import models
from finetune_operator.revisions.target import TargetRevision

FAILED = "Failed"
OUTCOMES = ("Inconclusive", "Verified")
"""The weakest one first: all names of a job have the same adapter."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of a job, one for each of its names."""

    names: tuple[str, ...]
    adapter: str | None
    """SHA-256 of the manifest of the adapter that they must answer with."""

    attempt: int
    """Number of the attempt to serve it. A failure of an earlier one does not count."""

    of_job: tuple[EndpointModelStatus, ...]

    def answers(self, model: EndpointModelStatus) -> bool:
        """Report whether a name answers with the adapter, which its endpoint has verified."""
        return self.adapter is not None and model.answers == self.adapter

    @property
    def all_answer(self) -> bool:
        """Whether every name answers with the adapter."""
        answering = {model.name for model in self.of_job if self.answers(model)}
        return bool(self.names) and answering == {*self.names}

    @property
    def failed(self) -> EndpointModelStatus | None:
        """A name for which the adapter was not loaded or not verified, None if there is none."""
        failed = (model for model in self.of_job if model.state == FAILED)
        wanted = self.adapter, self.attempt
        return next((model for model in failed if (model.adapter, model.attempt) == wanted), None)

    def verification(self, build: str) -> dict[str, Any]:
        """Return ``status.verification``, empty unless every name answers."""
        if not self.all_answer:
            return {}
        weakest = next(
            (model for name in OUTCOMES for model in self.of_job if model.outcome == name), None
        )
        if weakest is None:
            return {}
        return VerificationStatus(
            build=build,
            outcome=weakest.outcome,
            distance=weakest.distance,
            tolerance=weakest.tolerance,
            smallest_fault=weakest.smallest_fault,
        ).model_dump(mode="json", by_alias=True, exclude_none=True)


def models_of(
    snapshot: IndexedSnapshot,
    ledger: Ledger,
    revision: str | None,
    endpoint: str | None,
    *,
    attempt: int,
) -> Models:
    """Return the models of a job at an endpoint. revision: the one that they must answer with."""
    adapter = None if revision is None else ledger.revision(revision).artifacts.adapter_manifest
    published = next(
        (model for model in models.published(snapshot.job) if model.endpoint == endpoint), None
    )
    if published is None:
        return Models(names=(), adapter=adapter, attempt=attempt, of_job=())
    names = tuple(published.names)
    listed = next(
        (
            (existing.get("status") or {}).get("models") or ()
            for existing in snapshot.endpoints
            if existing["metadata"]["uid"] == published.endpoint_uid
        ),
        (),
    )
    return Models(
        names=names,
        adapter=adapter,
        attempt=attempt,
        of_job=tuple(
            EndpointModelStatus.model_validate(model, extra="ignore", by_name=False)
            for model in listed
            if model.get("job") == snapshot.name and model.get("name") in names
        ),
    )


def models_of_build(snapshot: IndexedSnapshot, ledger: Ledger, build: str) -> Models:
    """Return the models of the build that an endpoint serves."""
    return models_of(
        snapshot,
        ledger,
        ledger.revision_of(build),
        endpoint_of(ledger, build),
        attempt=_attempt(ledger, build),
    )


def to_status(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    names: list[str],
    *,
    offered: bool,
    serving: str | None,
) -> dict[str, Any]:
    """Return ``sharedModel`` and ``formerModel``, by which endpoints find the adapters of a job.

    names: model names of the target. offered: whether the endpoint may serve the target. serving:
    the serving build, or None. If an endpoint serves it, its adapter stays until another build
    serves: at the same endpoint, until the next adapter has failed.
    """
    offers = [
        _published(snapshot, ledger, target.revision, target.build, target.frozen, names, place)
        for place in publications.shared_endpoint(target)
        if offered and publications.is_complete(ledger, target, place)
    ]
    kept = None if serving is None else _of_serving(snapshot, ledger, serving)
    shared = offers[0] if offers else kept
    status = {} if shared is None else {"sharedModel": shared}
    if shared is not None and kept is not None and kept["endpoint"] != shared["endpoint"]:
        status["formerModel"] = kept
    return status


def is_retained(target: TargetRevision, ledger: Ledger, serving: str | None) -> bool:
    """Report whether the endpoint of a target still has the adapter of another build that serves.

    serving: the serving build, or None.
    """
    revision = None if serving is None else ledger.revision_of(serving)
    if serving in (None, target.build) or revision is None:
        return False
    return endpoint_of(ledger, str(serving)) == target.endpoint_name and any(
        publications.is_on_claim(ledger, revision, place)
        for place in publications.shared_endpoint(target)
    )


def _of_serving(snapshot: IndexedSnapshot, ledger: Ledger, serving: str) -> dict[str, Any] | None:
    """Return the model that an endpoint serves for the serving build, None if none does."""
    endpoint, revision = endpoint_of(ledger, serving), ledger.revision_of(serving)
    frozen = None if revision is None else ledger.frozen(revision)
    published = (model for model in models.published(snapshot.job) if model.endpoint == endpoint)
    before = next(published, None)
    if before is None or revision is None or frozen is None:
        return None
    place = SharedEndpointTarget.of(before.endpoint, before.endpoint_uid, before.volume)
    is_next = before.adapter != ledger.revision(revision).artifacts.adapter_manifest
    if is_next and publications.is_on_claim(ledger, revision, place):
        # The status has the next adapter, which is not offered any more.
        return _published(snapshot, ledger, revision, serving, frozen, before.names, place)
    return before.model_dump(mode="json", by_alias=True, exclude_none=True)


def _published(
    snapshot: IndexedSnapshot,
    ledger: Ledger,
    revision: str,
    build: str,
    frozen: FrozenConfiguration,
    names: list[str],
    place: SharedEndpointTarget,
) -> dict[str, Any]:
    artifacts = ledger.revision(revision).artifacts
    adapter = artifacts.adapter_manifest or ""
    template = artifacts.chat_template
    return SharedModel(
        endpoint=place.endpoint,
        endpoint_uid=place.uid,
        volume=place.volume,
        names=list(dict.fromkeys(names)),
        revision=frozen.digest,
        adapter=adapter,
        reference=artifacts.reference_manifest,
        template=None if template is None else template.removeprefix("sha256:"),
        path=published_path(snapshot.job["metadata"]["uid"], adapter),
        attempt=_attempt(ledger, build),
    ).model_dump(mode="json", by_alias=True, exclude_none=True)


def _attempt(ledger: Ledger, build: str) -> int:
    attempt = ledger.serving(build)
    return 1 if attempt is None else attempt.attempt
