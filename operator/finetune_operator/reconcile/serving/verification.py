"""``status.verification``: the verification result of the serving build."""

from typing import Any

from finetune_api.v1alpha1.status.serving import VerificationStatus
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.serving.endpoint_models import models_of_build
from finetune_operator.reconcile.serving.state import endpoint_of
from finetune_operator.revisions.ledger import Ledger


def verification_status(
    snapshot: IndexedSnapshot, ledger: Ledger, build: str | None
) -> dict[str, Any]:
    """Return the verification result of the serving build; without a new one, the previous one."""
    before = dict(snapshot.previous.verification)
    kept = before if before.get("build") == build else {}
    if build is not None and endpoint_of(ledger, build) is not None:
        return models_of_build(snapshot, ledger, build).verification(build) or kept
    result = snapshot.verification
    if result is None or result.build != build:
        return kept
    return VerificationStatus(
        pod=result.pod,
        build=result.build,
        outcome=result.outcome,
        distance=_significant(result.distance),
        tolerance=_significant(result.tolerance),
        smallest_fault=_significant(result.smallest_fault),
        seconds=_significant(result.seconds),
    ).model_dump(mode="json", by_alias=True, exclude_none=True)


def _significant(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
