"""The models of a job at its FineTuneEndpoint, as the status of the endpoint reports them. Pure.

A report counts only about the adapter of the build, and only if it is of the endpoint that has the
published files: another endpoint of the same name has another claim.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts.endpoint import published_path
from finetune_api.v1alpha1.endpoints.status import EndpointModelStatus
from finetune_api.v1alpha1.status.serving import SharedModel, VerificationStatus
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision

ANSWERS = "Serving"
OUTCOMES = ("Inconclusive", "Verified")
"""The weakest one first: all names of a job have the same adapter."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of a job, one for each of its names."""

    names: tuple[str, ...]
    adapter: str | None
    """SHA-256 of the manifest of the adapter that they must answer with."""

    of_job: tuple[EndpointModelStatus, ...]

    def answers(self, model: EndpointModelStatus) -> bool:
        """Report whether a name answers with the adapter, which its endpoint has verified."""
        return self.adapter is not None and model.answers == self.adapter

    @property
    def all_answer(self) -> bool:
        """Whether every name answers with the adapter."""
        answering = {model.name for model in self.of_job if self.answers(model)}
        return bool(self.names) and answering == {*self.names}

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


def models_of(snapshot: IndexedSnapshot, ledger: Ledger, revision: str | None) -> Models:
    """Return the models of a job. revision: the one that they must answer with."""
    adapter = None if revision is None else ledger.revision(revision).artifacts.adapter_manifest
    published = _parsed(snapshot.previous.shared_model)
    endpoint = snapshot.endpoint
    if published is None or endpoint is None:
        return Models(names=(), adapter=adapter, of_job=())
    names = tuple(published.names)
    if endpoint["metadata"]["uid"] != published.endpoint_uid:
        return Models(names=names, adapter=adapter, of_job=())
    listed = (endpoint.get("status") or {}).get("models") or ()
    return Models(
        names=names,
        adapter=adapter,
        of_job=tuple(
            EndpointModelStatus.model_validate(model, extra="ignore", by_name=False)
            for model in listed
            if model.get("job") == snapshot.name and model.get("name") in names
        ),
    )


def _parsed(model: Any) -> SharedModel | None:
    """Return ``status.sharedModel``, None for one of an unknown form."""
    try:
        return None if model is None else SharedModel.model_validate(model, by_name=False)
    except ValidationError:
        return None


def shared_model(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    names: list[str],
    *,
    offered: bool,
    serves: bool,
) -> dict[str, Any] | None:
    """Return ``status.sharedModel``, by which an endpoint finds the adapter.

    names: model names of the target. offered: whether the endpoint may serve the target. serves:
    whether an endpoint serves the job; the earlier adapter then stays until another build serves.
    """
    for endpoint_target in publications.shared_endpoint(target):
        if offered and publications.is_complete(ledger, target, endpoint_target):
            return _published(
                snapshot,
                target,
                ledger,
                names,
                uid=endpoint_target.uid,
                name=endpoint_target.endpoint,
            )
    before = snapshot.previous.shared_model
    return dict(before) if serves and before is not None else None


def _published(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    names: list[str],
    *,
    uid: str,
    name: str,
) -> dict[str, Any]:
    artifacts = ledger.revision(target.revision).artifacts
    adapter = artifacts.adapter_manifest or ""
    template = artifacts.chat_template
    return SharedModel(
        endpoint=name,
        endpoint_uid=uid,
        names=list(dict.fromkeys(names)),
        revision=target.frozen.digest,
        adapter=adapter,
        reference=artifacts.reference_manifest,
        template=None if template is None else template.removeprefix("sha256:"),
        path=published_path(snapshot.job["metadata"]["uid"], adapter),
    ).model_dump(mode="json", by_alias=True, exclude_none=True)
