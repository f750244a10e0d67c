"""Prometheus metrics of the operator, under the names that controller-runtime uses.

Dashboards and alerts written for operators of that family work unchanged. The domain's own metrics
carry no job names: their number of series does not grow with the fleet.
"""

from collections.abc import Hashable, Iterable
from datetime import datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.state import Object, Observed, Plan

# A second series for each counter, of use to nobody who scrapes.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CONTROLLER = "finetunejob"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUE_SECONDS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)
_STAGE_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400, 259200)

RECONCILE_TOTAL = Counter(
    "controller_runtime_reconcile",
    "Looks at a job, by how they ended.",
    ("controller", "result"),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "controller_runtime_reconcile_errors",
    "Looks that failed and are repeated.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TERMINAL = Counter(
    "controller_runtime_terminal_reconcile_errors",
    "Looks whose writes were refused for good.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_TIMEOUTS = Counter(
    "controller_runtime_reconcile_timeouts",
    "Looks that took too long and were cut off.",
    ("controller",),
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "controller_runtime_reconcile_time_seconds",
    "Duration of a look.",
    ("controller",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
ACTIVE_WORKERS = Gauge(
    "controller_runtime_active_workers",
    "Workers that are looking at a job.",
    ("controller",),
    registry=REGISTRY,
)
MAX_WORKERS = Gauge(
    "controller_runtime_max_concurrent_reconciles",
    "Workers.",
    ("controller",),
    registry=REGISTRY,
)

QUEUE_DEPTH = Gauge("workqueue_depth", "Keys that wait.", ("name",), registry=REGISTRY)
QUEUE_ADDS = Counter("workqueue_adds", "Keys that were queued.", ("name",), registry=REGISTRY)
QUEUE_RETRIES = Counter(
    "workqueue_retries", "Keys that were queued again.", ("name",), registry=REGISTRY
)
QUEUE_SECONDS = Histogram(
    "workqueue_queue_duration_seconds",
    "Time that a key waits.",
    ("name",),
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
WORK_SECONDS = Histogram(
    "workqueue_work_duration_seconds",
    "Time that the work on a key takes.",
    ("name",),
    buckets=_QUEUE_SECONDS,
    registry=REGISTRY,
)
UNFINISHED_SECONDS = Gauge(
    "workqueue_unfinished_work_seconds",
    "Time spent so far on all keys in work.",
    ("name",),
    registry=REGISTRY,
)
LONGEST_SECONDS = Gauge(
    "workqueue_longest_running_processor_seconds",
    "Time spent so far on the key that is longest in work.",
    ("name",),
    registry=REGISTRY,
)

REQUESTS = Counter(
    "rest_client_requests",
    "Requests to the API server, by HTTP status ('<error>' without one) and verb.",
    ("code", "method"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "rest_client_request_duration_seconds",
    "Duration of requests to the API server.",
    ("method",),
    buckets=_SECONDS,
    registry=REGISTRY,
)

STAGE_SECONDS = Histogram(
    "finetune_stage_duration_seconds",
    "Time from start to completion of a stage's Job.",
    ("stage",),
    buckets=_STAGE_SECONDS,
    registry=REGISTRY,
)
GPU_SECONDS = Counter(
    "finetune_gpu_seconds", "GPU-seconds that the trainers reported.", registry=REGISTRY
)


class Fleet(Collector):
    """``finetune_jobs{reason}``: how many jobs there are, by Ready's reason."""

    def __init__(self) -> None:
        self._reasons: dict[Hashable, str] = {}

    def saw(self, key: Hashable, status: Object) -> None:
        """Take note of a job's status."""
        self._reasons[key] = ready_reason(status)

    def forget(self, key: Hashable) -> None:
        """Take note that a job is gone."""
        self._reasons.pop(key, None)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the metric, as prometheus-client asks for it."""
        family = GaugeMetricFamily(
            "finetune_jobs",
            "FineTuneJobs by the reason of their Ready condition.",
            labels=["reason"],
        )
        counts: dict[str, int] = {}
        for reason in self._reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        for reason, count in sorted(counts.items()):
            family.add_metric([reason], count)
        return [family]


FLEET = Fleet()
REGISTRY.register(FLEET)


def ready_reason(status: Object) -> str:
    """Return the reason of the Ready condition, Unknown where there is none."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            return str(condition.get("reason", "Unknown"))
    return "Unknown"


def wrote(seen: Observed, plan: Plan) -> None:
    """Count what a written status says for the first time: stages completed, GPU-seconds used."""
    old, new = seen.job.get("status") or {}, plan.status
    spent = _gpu_seconds(new) - _gpu_seconds(old)
    if spent > 0:
        GPU_SECONDS.inc(spent)
    for revision, stage, attempt in _completed(new) - _completed(old):
        for job in seen.jobs:
            labels = job["metadata"].get("labels") or {}
            wanted = (revision, stage, str(attempt))
            found = tuple(labels.get(f"finetune.dev/{k}") for k in ("revision", "stage", "attempt"))
            if found == wanted and (seconds := _duration(job)) is not None:
                STAGE_SECONDS.labels(stage).observe(seconds)


def _gpu_seconds(status: Object) -> float:
    return float((status.get("training") or {}).get("gpuSeconds") or 0)


def _completed(status: Object) -> set[tuple[Any, Any, Any]]:
    return {
        (revision.get("revision"), stage.get("stage"), stage.get("attempt"))
        for revision in status.get("revisions") or ()
        for stage in revision.get("stages") or ()
        if stage.get("outcome") == "Completed"
    }


def _duration(job: Object) -> float | None:
    status = job.get("status") or {}
    try:
        start, end = (
            datetime.fromisoformat(status[field]) for field in ("startTime", "completionTime")
        )
    except (KeyError, ValueError):
        return None
    return (end - start).total_seconds()
