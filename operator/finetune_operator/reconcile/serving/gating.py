"""The gate of the chosen build: what its evaluation says, by itself and against what serves.

The rule is in ``evaluation``; here is found what it is about.
"""

from dataclasses import replace

from finetune_api.contracts.reference import BaseKind
from finetune_api.v1alpha1.status import ServingComparison
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import Chosen
from finetune_operator.types import Object


def gate(job: Object, chosen: Chosen, ledger: Ledger, served: str | None) -> evaluation_gate.Gate:
    """Return what the evaluation says about the chosen build. served: the build that serves."""
    record = ledger.revision(chosen.revision)
    found = evaluation_gate.judge(record.artifacts.evaluation, base_of(chosen))
    return replace(found, against_serving=_against_serving(job, chosen, ledger, served))


def base_of(chosen: Chosen) -> BaseKind:
    """Return the base that the chosen build runs on; an adapter runs on the base as it is."""
    spec = chosen.resolved.spec
    return "original" if spec.serving.mode == "adapter" else spec.merge.base


def _against_serving(
    job: Object, chosen: Chosen, ledger: Ledger, served: str | None
) -> ServingComparison | None:
    """Compare the chosen build with what serves; once it does itself, as it was before."""
    if served is None:
        return None
    status = job.get("status", {})
    if served == chosen.build:
        known = status.get("evaluation", {}).get("againstServing")
        same = known is not None and status.get("build") == chosen.build
        return ServingComparison.model_validate(known) if same else None
    revision = ledger.revision_of(served)
    attempt = revision and ledger.attempt(revision, "serve", served)
    return evaluation_gate.compare(
        evaluation_gate.Build(
            build=chosen.build,
            artifacts=ledger.revision(chosen.revision).artifacts,
            base=base_of(chosen),
        ),
        evaluation_gate.Build(
            build=served,
            artifacts=ledger.revision(revision or "").artifacts,
            base=attempt.base if attempt else None,
        ),
    )
