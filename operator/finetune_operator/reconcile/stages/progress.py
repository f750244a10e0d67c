"""``status.training``: how far training is, from the trainer's metrics and from its result."""

import math
from typing import Any

from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.status import PreparationProgress, TrainingProgress
from finetune_operator.manifests.jobs import CONTAINER
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import pods_of
from finetune_operator.objects.pods import runs
from finetune_operator.reconcile.stages import restarts
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Object, Progress, Snapshot


def training_status(snapshot: Snapshot, revision: str, ledger: Ledger) -> dict[str, Any]:
    """Return the progress of ``revision``; what is not known now stays as it was known before.

    GPU-seconds are noted in the ledger, which outlives an edit to another revision and back.
    """
    attempt = ledger.attempt(revision, "train")
    if attempt is None:
        return {}
    before: dict[str, Any] = {}
    if snapshot.job.get("status", {}).get("revision") == revision:
        before = dict(snapshot.job["status"].get("training", {}))
    job = next(
        (
            job
            for job in snapshot.jobs
            if naming.label(job, naming.STAGE) == "train"
            and naming.label(job, naming.REVISION) == revision
            and naming.label(job, naming.ATTEMPT) == str(attempt.attempt)
        ),
        None,
    )
    now = _measured(snapshot, revision)
    if job is not None:
        now |= _reported(job, snapshot)
    if attempt.pod is None and attempt.outcome in ("Stopped", "Failed"):
        # What it spent was on a volume that is gone, and is counted as such.
        now.pop("gpuSeconds", None)
    counters = {name: getattr(attempt, name) or 0 for name in restarts.COUNTERS}
    now |= {name: count for name, count in counters.items() if count or name in before}
    now["restarts"] = sum(counters.values())
    if attempt.outcome == "Completed":
        now |= {"progressPercent": 100, "etaSeconds": 0}
    progress = {**before, **{key: value for key, value in now.items() if value is not None}}
    progress["gpuSeconds"] = ledger.spent(revision, now.get("gpuSeconds"))
    progress["attempt"] = attempt.attempt
    return TrainingProgress.model_validate(progress).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )


def _measured(snapshot: Snapshot, revision: str) -> dict[str, Any]:
    """Return what the metrics said, where they are this revision's and not an abandoned one's."""
    progress = snapshot.progress
    running = runs(snapshot.pods, "train", revision)
    if progress is None or progress.global_step is None or not running:
        return {}
    return {
        "globalStep": progress.global_step,
        "maxSteps": progress.max_steps,
        "progressPercent": _percent(progress.global_step, progress.max_steps),
        "etaSeconds": _whole(progress.eta_seconds),
        "stepSeconds": _text(_pace(progress), digits=1),
        "loss": _text(progress.loss),
        "evalLoss": _text(progress.eval_loss),
        "tokensPerSecond": _text(progress.tokens_per_second, digits=1),
        "lastCheckpointStep": progress.last_checkpoint_step,
        "gpuSeconds": _whole(progress.gpu_seconds),
    }


def _reported(job: Object, snapshot: Snapshot) -> dict[str, Any]:
    """Return what the newest pod of a train Job left in its termination message."""
    for pod in pods_of(job, snapshot.pods)[-1:]:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            end = container.get("state", {}).get("terminated")
            if container["name"] != CONTAINER or end is None:
                continue
            result = Result.from_message(end.get("message", ""))
            if result is None:
                return {}
            return {
                "globalStep": result.global_step,
                "maxSteps": result.max_steps,
                "progressPercent": _percent(result.global_step, result.max_steps),
                "loss": _text(result.loss),
                "evalLoss": _text(result.eval_loss),
                "gpuSeconds": _whole(result.gpu_seconds),
            }
    return {}


def _pace(progress: Progress) -> float | None:
    """Return the seconds that a step takes: those that are left, by the steps that are left."""
    left = (progress.max_steps or 0) - (progress.global_step or 0)
    if left <= 0 or progress.eta_seconds is None or not math.isfinite(progress.eta_seconds):
        return None
    return progress.eta_seconds / left


def _percent(step: int | None, steps: int | None) -> int | None:
    return None if step is None or not steps else min(100, 100 * step // steps)


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value)


def _text(value: float | None, *, digits: int = 4) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def preparation_status(snapshot: Snapshot, revision: str, ledger: Ledger) -> dict[str, Any]:
    """Return the progress of staging ``revision``; nothing once it is over.

    What is not known now stays as it was known before.
    """
    attempt = ledger.attempt(revision, "prepare")
    if attempt is None or attempt.outcome not in ("Starting", "Running"):
        return {}
    before: dict[str, Any] = {}
    if snapshot.job.get("status", {}).get("revision") == revision:
        before = dict(snapshot.job["status"].get("preparation", {}))
    progress = snapshot.progress
    running = runs(snapshot.pods, "prepare", revision)
    if progress is None or progress.downloaded_bytes is None or not running:
        return before
    done, total, eta = progress.downloaded_bytes, progress.total_bytes, progress.eta_seconds
    now = PreparationProgress(
        downloaded_bytes=done,
        total_bytes=total,
        progress_percent=min(100, 100 * done // total) if total else None,
        eta_seconds=None if eta is None or not math.isfinite(eta) else round(eta),
    )
    return now.model_dump(mode="json", by_alias=True, exclude_none=True)
