"""``status.staging``: how far the stage pod is with what it downloads, from its metrics."""

import math
from typing import Any

from finetune_api.v1alpha1.status import StagingProgress
from finetune_operator.objects.pods import runs
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Observed


def staging_status(seen: Observed, revision: str, ledger: Ledger) -> dict[str, Any]:
    """Return the progress of staging ``revision``; nothing once it is over.

    What is not known now stays as it was known before.
    """
    attempt = ledger.attempt(revision, "stage")
    if attempt is None or attempt.outcome not in ("Starting", "Running"):
        return {}
    before: dict[str, Any] = {}
    if seen.job.get("status", {}).get("revision") == revision:
        before = dict(seen.job["status"].get("staging", {}))
    progress = seen.progress
    running = runs(seen.pods, "stage", revision)
    if progress is None or progress.downloaded_bytes is None or not running:
        return before
    done, total, eta = progress.downloaded_bytes, progress.total_bytes, progress.eta_seconds
    now = StagingProgress(
        downloaded_bytes=done,
        total_bytes=total,
        progress_percent=min(100, 100 * done // total) if total else None,
        eta_seconds=None if eta is None or not math.isfinite(eta) else round(eta),
    )
    return now.model_dump(mode="json", by_alias=True, exclude_none=True)
