"""Metrics about the jobs: their state, their attempts and their GPU-seconds.

No label carries the name of a job: the number of series grows with namespaces, not with jobs.
Counters start at zero with the process. They count only what a status reports for the first time,
so that nothing is counted twice after a restart.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator.objects import naming, status_view
from finetune_operator.objects.status_view import RevisionView
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import Key, Object, Plan, Snapshot

_STAGE_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400, 259200)
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_TERMINATED = ("Completed", "Failed", "Stopped")
NAMESPACE = "job_namespace"
"""Label with the namespace of a job. Prometheus names the namespace of the scraped pod
``namespace``, and would rename our label to ``exported_namespace``."""

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


@dataclass(slots=True, kw_only=True)
class JobSample:
    """State of one job at its last reconcile: reason of Ready, GPUs of its serving pods, time."""

    namespace: str
    reason: str
    gpus: int
    at: float


class JobMetrics(Collector):
    """Jobs by state, and GPU-seconds by namespace and purpose.

    GPU-seconds of training are reported by the trainers, over all attempts. GPU-seconds of serving
    are the time for which serving pods are assigned to a node, and hold one GPU each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[Key, JobSample] = {}
        self._gpu_seconds: dict[tuple[str, str], float] = {}

    def observed(self, key: Key, snapshot: Snapshot, status: Object) -> None:
        """Record the state of a job after a reconcile."""
        self.forget(key)
        self._samples[key] = JobSample(
            namespace=key[0],
            reason=status_view.of(status).ready_reason,
            gpus=sum(map(_holds_serving_gpu, snapshot.pods)),
            at=self._clock(),
        )

    def written(self, snapshot: Snapshot, plan: Plan) -> None:
        """Count the attempts and GPU-seconds that a written status reports for the first time."""
        seconds = _count(snapshot, plan)
        if seconds:
            self._add(str(snapshot.job["metadata"]["namespace"]), "training", seconds)

    def forget(self, key: Key) -> None:
        """Forget a job, after accounting for the time since it was observed."""
        if (sample := self._samples.pop(key, None)) is not None:
            self._account(sample)

    def _account(self, sample: JobSample) -> None:
        """Add the GPU-seconds of a job's serving pods up to now."""
        if sample.gpus:
            now = self._clock()
            self._add(sample.namespace, "serving", sample.gpus * (now - sample.at))
            sample.at = now

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, for prometheus-client."""
        counts: dict[tuple[str, str], int] = {}
        for sample in self._samples.values():
            self._account(sample)
            labels = sample.namespace, sample.reason
            counts[labels] = counts.get(labels, 0) + 1
        jobs = GaugeMetricFamily(
            "finetune_jobs",
            "Number of FineTuneJobs, by namespace and by the reason of their Ready condition.",
            labels=[NAMESPACE, "reason"],
        )
        for labels, count in sorted(counts.items()):
            jobs.add_metric(labels, count)
        gpu_seconds = CounterMetricFamily(
            "finetune_gpu_seconds",
            "Total number of used GPU-seconds, by namespace and purpose (training or serving).",
            labels=[NAMESPACE, "purpose"],
        )
        for labels, seconds in sorted(self._gpu_seconds.items()):
            gpu_seconds.add_metric(labels, seconds)
        return [jobs, gpu_seconds]

    def _add(self, namespace: str, purpose: str, seconds: float) -> None:
        total = self._gpu_seconds.get((namespace, purpose), 0.0)
        self._gpu_seconds[namespace, purpose] = total + seconds


JOB_METRICS = JobMetrics()
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


def _holds_serving_gpu(pod: Object) -> bool:
    return (
        naming.is_serving(pod)
        and bool(pod.get("spec", {}).get("nodeName"))
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


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
