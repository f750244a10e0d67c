"""``status.verification``: the verification result of the build that serves."""

from typing import Any

from finetune_api.v1alpha1.status import VerificationStatus
from finetune_operator.types import Snapshot


def verification_status(snapshot: Snapshot, build: str | None) -> dict[str, Any]:
    """Return what is known of ``build``, which serves; what was known before stays."""
    found = snapshot.verification
    if found is None or found.build != build:
        before: dict[str, Any] = dict(snapshot.job.get("status", {}).get("verification", {}))
        return before if before.get("build") == build else {}
    return VerificationStatus(
        pod=found.pod,
        build=found.build,
        outcome=found.outcome,
        distance=_text(found.distance),
        tolerance=_text(found.tolerance),
        seconds=_text(found.seconds),
    ).model_dump(mode="json", by_alias=True, exclude_none=True)


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
