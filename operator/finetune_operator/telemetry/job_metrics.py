"""Metrics about the jobs: their state, their attempts and their GPU-seconds.

No label carries the name of a job: the number of series grows with namespaces, not with jobs.
Counters start at zero with the process. They count only what a status reports for the first time,
so that nothing is counted twice after a restart.
"""

import re
from collections import Counter as Counts
from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import finetune_api
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.status_view import RevisionView
from finetune_operator.telemetry.gpu_seconds import GPU_SECONDS, NAMESPACE, GpuSeconds
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import Key, Object, Plan, Snapshot

_STAGE_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400, 259200)
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_TERMINATED = ("Completed", "Failed", "Stopped")

STAGE_SECONDS = Histogram(
    "finetune_stage_duration_seconds",
    "Time in seconds from the start of a stage's Job to the completion of the Job.",
    ("stage",),
    buckets=_STAGE_SECONDS,
    registry=REGISTRY,
)
STAGE_OUTCOMES = Counter(
    "finetune_stage_outcomes",
    "Total number of attempts that have ended, by namespace, stage, outcome and reason.",
    (NAMESPACE, "stage", "outcome", "reason"),
    registry=REGISTRY,
)


class JobMetrics(Collector):
    """Jobs by state. Their GPU-seconds are added to those of all."""

    def __init__(self, gpu_seconds: GpuSeconds) -> None:
        self.gpu_seconds = gpu_seconds
        self._reasons: dict[Key, str] = {}
        """Of the condition Ready."""

    def observed(self, key: Key, snapshot: Snapshot, status: Object) -> None:
        """Record the state of a job after a reconcile."""
        self._reasons[key] = status_view.of(status).ready_reason
        serving = filter(naming.is_serving, snapshot.pods)
        self.gpu_seconds.hold((finetune_api.KIND, *key), serving)

    def written(self, snapshot: Snapshot, plan: Plan) -> None:
        """Count the attempts and GPU-seconds that a written status reports for the first time."""
        seconds = _count(snapshot, plan)
        if seconds:
            namespace = str(snapshot.job["metadata"]["namespace"])
            self.gpu_seconds.add(namespace, "training", seconds)

    def forget(self, key: Key) -> None:
        """Forget a job."""
        self._reasons.pop(key, None)
        self.gpu_seconds.release((finetune_api.KIND, *key))

    def collect(self) -> Iterable[Metric]:
        """Return the metric, for prometheus-client."""
        counts = Counts((key[0], reason) for key, reason in self._reasons.items())
        jobs = GaugeMetricFamily(
            "finetune_jobs",
            "Number of FineTuneJobs, by namespace and by the reason of their Ready condition.",
            labels=[NAMESPACE, "reason"],
        )
        for labels, count in sorted(counts.items()):
            jobs.add_metric(labels, count)
        return [jobs]


JOB_METRICS = JobMetrics(GPU_SECONDS)
REGISTRY.register(JOB_METRICS)


def _count(snapshot: Snapshot, plan: Plan) -> int:
    """Count the attempts that a status reports for the first time; return its new GPU-seconds."""
    old = tuple(status_view.of_job(snapshot.job).revisions())
    new = tuple(status_view.of(plan.status).revisions())
    before = {revision.name: revision.gpu_seconds for revision in old}
    namespace = str(snapshot.job["metadata"]["namespace"])
    counted = _terminated_attempts(old)
    for attempt, (outcome, reason) in _terminated_attempts(new).items():
        if attempt in counted:
            continue
        revision, stage, number, _ = attempt
        STAGE_OUTCOMES.labels(namespace, stage, outcome, reason).inc()
        if outcome == "Completed":
            for duration in _durations(snapshot.jobs, (revision, stage, str(number))):
                STAGE_SECONDS.labels(stage).observe(duration)
    return sum(max(revision.gpu_seconds - before.get(revision.name, 0), 0) for revision in new)


def _terminated_attempts(
    revisions: Iterable[RevisionView],
) -> dict[tuple[str, str, int, str | None], tuple[str, str]]:
    """Return outcome and reason of terminated attempts, by revision, stage, number and build.

    A reason is written by the trainer and becomes a label, so only a CamelCase word is accepted.
    """
    attempts = {}
    for revision in revisions:
        for attempt in revision.attempts:
            if attempt.outcome in _TERMINATED:
                reason = attempt.reason or attempt.outcome
                valid = _REASON.fullmatch(reason) is not None
                key = revision.name, attempt.stage, attempt.number, attempt.build
                attempts[key] = attempt.outcome, reason if valid else "Other"
    return attempts


def _durations(jobs: Iterable[Object], attempt: tuple[str, str, str]) -> Iterable[float]:
    """Yield the duration of an attempt's Job in seconds."""
    for job in jobs:
        labels = tuple(
            naming.label(job, key) for key in (naming.REVISION, naming.STAGE, naming.ATTEMPT)
        )
        status = job.get("status") or {}
        if labels == attempt and "startTime" in status and "completionTime" in status:
            start, end = (
                datetime.fromisoformat(status[field]) for field in ("startTime", "completionTime")
            )
            yield (end - start).total_seconds()
