"""``status.training`` and ``status.preparation``, from the trainer's metrics and its result."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_api.contracts.result import Result
from finetune_api.v1alpha1.status.progress import PreparationProgress, TrainingProgress
from finetune_operator.manifests.jobs import CONTAINER
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.pods import ended, started
from finetune_operator.reconcile.stages import restarts
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object, PodProgress


def measure(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Mapping[str, Any]:
    """Return the progress of training that metrics or a result report now, by field name."""
    attempt = ledger.training(target.revision)
    if attempt is None:
        return {}
    pods = _train_pods(snapshot, target, ledger)
    now = _measured(snapshot.progress, pods) | _reported(pods)
    if attempt.pod is None and attempt.outcome in ("Stopped", "Failed"):
        # It was spent on a volume that is gone, and is already counted.
        now.pop("gpuSeconds", None)
    return now


def checkpoint_card(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger
) -> str | None:
    """Return the card of the running train pod if it has saved a checkpoint, otherwise None.

    An attempt without a checkpoint leaves nothing that another card would have to resume.
    """
    progress = snapshot.progress
    if progress is None or not _runs(progress, _train_pods(snapshot, target, ledger)):
        return None
    return progress.card if progress.last_checkpoint_step else None


def with_gpu_seconds(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    measured: Mapping[str, Any],
    now: datetime,
) -> Ledger:
    """Return the ledger with the GPU-seconds that the trainer reports (``measure``).

    A trainer cannot report more than the time since its volume's first train pod started.
    """
    pods = _train_pods(snapshot, target, ledger)
    if not pods or measured.get("gpuSeconds") is None:
        return ledger
    return ledger.with_gpu_seconds(
        target.revision,
        measured["gpuSeconds"],
        started=started(pods[0]),
        until=ended(pods[-1]) or now,
    )


def _train_pods(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger
) -> Sequence[Object]:
    """Return the pods of the latest train attempt, which its Job controls, oldest first."""
    attempt = ledger.training(target.revision)
    if attempt is None:
        return ()
    job = snapshot.job_of(target.revision, attempt)
    return () if job is None else snapshot.pods_of(job)


def training_status(
    snapshot: IndexedSnapshot, revision: str, ledger: Ledger, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``status.training``; a value that is not measured now keeps its previous value.

    measured: ``measure``, whose GPU-seconds the ledger has: it outlives an edit to another revision
    and back.
    """
    attempt = ledger.training(revision)
    if attempt is None:
        return {}
    before, now = _previous(snapshot, revision, snapshot.previous.training), dict(measured)
    counters = {name: getattr(attempt, name) or 0 for name in restarts.COUNTERS}
    now |= {name: count for name, count in counters.items() if count or name in before}
    now["restarts"] = sum(counters.values())
    if attempt.outcome == "Completed":
        now |= {"progressPercent": 100, "etaSeconds": 0}
    progress = {**before, **{key: value for key, value in now.items() if value is not None}}
    progress["gpuSeconds"] = ledger.revision(revision).gpu_seconds
    progress["attempt"] = attempt.attempt
    if snapshot.job["spec"].get("suspend"):
        progress.pop("etaSeconds", None)
    return TrainingProgress.model_validate(progress).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )


def _measured(progress: PodProgress | None, pods: Sequence[Object]) -> dict[str, Any]:
    """Return the metrics of the running train pod, if it is one of ``pods``."""
    if progress is None or progress.global_step is None or not _runs(progress, pods):
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


def _runs(progress: PodProgress, pods: Sequence[Object]) -> bool:
    """Report whether metrics are those of a running pod of ``pods``."""
    return any(
        pod["metadata"]["uid"] == progress.pod and pod.get("status", {}).get("phase") == "Running"
        for pod in pods
    )


def _reported(pods: Sequence[Object]) -> dict[str, Any]:
    """Return the result in the termination message of a train Job's newest pod.

    pods: those that the Job controls, oldest first.
    """
    for pod in pods[-1:]:
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
                # A trainer that was stopped has saved its last step.
                "lastCheckpointStep": result.global_step if result.outcome == "stopped" else None,
            }
    return {}


def _previous(
    snapshot: IndexedSnapshot, revision: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    return dict(values) if snapshot.previous.is_about(revision) else {}


def _pace(progress: PodProgress) -> float | None:
    """Return the seconds per step: the remaining time divided by the remaining steps."""
    left = (progress.max_steps or 0) - (progress.global_step or 0)
    if left <= 0 or progress.eta_seconds is None or not math.isfinite(progress.eta_seconds):
        return None
    return progress.eta_seconds / left


def _percent(done: int | None, total: int | None) -> int | None:
    return None if done is None or not total else min(100, 100 * done // total)


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value)


def _text(value: float | None, *, digits: int = 4) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def preparation_status(snapshot: IndexedSnapshot, revision: str, ledger: Ledger) -> dict[str, Any]:
    """Return ``status.preparation``, empty once data preparation has ended.

    Without a new measurement the previous one is kept.
    """
    attempt = ledger.preparation(revision)
    if attempt is None or attempt.outcome not in ("Starting", "Running"):
        return {}
    before = _previous(snapshot, revision, snapshot.previous.preparation)
    progress = snapshot.progress
    job = snapshot.job_of(revision, attempt)
    pods = () if job is None else snapshot.pods_of(job)
    if progress is None or progress.downloaded_bytes is None or not _runs(progress, pods):
        return before
    now = PreparationProgress(
        downloaded_bytes=progress.downloaded_bytes,
        total_bytes=progress.total_bytes,
        progress_percent=_percent(progress.downloaded_bytes, progress.total_bytes),
        eta_seconds=_whole(progress.eta_seconds),
    )
    return now.model_dump(mode="json", by_alias=True, exclude_none=True)
