"""``status.verification``: the verification result of the serving build."""

from typing import Any

from finetune_api.v1alpha1.status.serving import VerificationStatus
from finetune_operator.objects.index import IndexedSnapshot


def verification_status(snapshot: IndexedSnapshot, build: str | None) -> dict[str, Any]:
    """Return the verification result of the serving build; without a new one, the previous one."""
    result = snapshot.verification
    if result is None or result.build != build:
        before = dict(snapshot.previous.verification)
        return before if before.get("build") == build else {}
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
