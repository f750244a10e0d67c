"""What is counted of the jobs themselves, for Prometheus.

No label carries the name of a job: the number of series grows with namespaces, not with the fleet.
Counters start at zero with the process, and count only what a status says for the first time, so
that a restart counts nothing twice.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator.objects import naming
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.types import Object, Plan, Snapshot

_STAGE_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400, 259200)
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_ENDED = ("Completed", "Failed", "Stopped")

STAGE_SECONDS = Histogram(
    "finetune_stage_duration_seconds",
    "Time from start to completion of a stage's Job.",
    ("stage",),
    buckets=_STAGE_SECONDS,
    registry=REGISTRY,
)
STAGE_OUTCOMES = Counter(
    "finetune_stage_outcomes",
    "Attempts at a stage that ended, by how and why.",
    ("stage", "outcome", "reason"),
    registry=REGISTRY,
)

Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What was last seen of a job: Ready's reason, the GPUs that serve it, and when."""

    reason: str
    gpus: int
    at: float


class Fleet(Collector):
    """Jobs by state, and GPU-seconds by namespace and purpose.

    Those of training are the trainers' own count, over all attempts. Those of serving are the time
    that serving pods have a node, and with it a GPU each, between two looks at them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[Key, _Known] = {}
        self._gpu_seconds: dict[tuple[str, str], float] = {}

    def saw(self, key: Key, pods: Iterable[Object], status: Object) -> None:
        """Take note of a look at a job: its pods, and the status that it has now."""
        self._account(key)
        gpus = sum(map(_serves_on_a_gpu, pods))
        reason = ready_reason(status)
        self._jobs[key] = _Known(reason=reason, gpus=gpus, at=self._clock())

    def forget(self, key: Key) -> None:
        """Take note that a job is gone."""
        self._account(key)
        self._jobs.pop(key, None)

    def trained(self, namespace: str, seconds: float) -> None:
        """Add GPU-seconds that a trainer reported."""
        self._add(namespace, "training", seconds)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, as prometheus-client asks for them."""
        for key in self._jobs:
            self._account(key)
        jobs = GaugeMetricFamily(
            "finetune_jobs",
            "FineTuneJobs by the reason of their Ready condition.",
            labels=["namespace", "reason"],
        )
        counts: dict[tuple[str, str], int] = {}
        for (namespace, _), known in self._jobs.items():
            counts[namespace, known.reason] = counts.get((namespace, known.reason), 0) + 1
        for labels, count in sorted(counts.items()):
            jobs.add_metric(labels, count)
        spent = CounterMetricFamily(
            "finetune_gpu_seconds",
            "GPU-seconds spent, by what they were spent on.",
            labels=["namespace", "purpose"],
        )
        for labels, seconds in sorted(self._gpu_seconds.items()):
            spent.add_metric(labels, seconds)
        return [jobs, spent]

    def _account(self, key: Key) -> None:
        """Add what a job's serving pods have held since it was last looked at."""
        known, now = self._jobs.get(key), self._clock()
        if known is not None and known.gpus:
            self._add(key[0], "serving", known.gpus * (now - known.at))
            self._jobs[key] = _Known(reason=known.reason, gpus=known.gpus, at=now)

    def _add(self, namespace: str, purpose: str, seconds: float) -> None:
        spent = self._gpu_seconds.get((namespace, purpose), 0.0)
        self._gpu_seconds[namespace, purpose] = spent + seconds


FLEET = Fleet()
REGISTRY.register(FLEET)


def ready_reason(status: Object) -> str:
    """Return the reason of the Ready condition, Unknown where there is none."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            return str(condition.get("reason", "Unknown"))
    return "Unknown"


def wrote(snapshot: Snapshot, plan: Plan, fleet: Fleet = FLEET) -> None:
    """Count what a written status says for the first time: attempts that ended, GPU-seconds."""
    old, new = snapshot.job.get("status") or {}, plan.status
    before = _gpu_seconds(old)
    if spent := sum(
        max(seconds - before.get(revision, 0), 0) for revision, seconds in _gpu_seconds(new).items()
    ):
        fleet.trained(str(snapshot.job["metadata"]["namespace"]), spent)
    known = _endings(old)
    for attempt, (outcome, reason) in _endings(new).items():
        if attempt in known:
            continue
        revision, stage, number, _ = attempt
        STAGE_OUTCOMES.labels(stage, outcome, reason).inc()
        if outcome == "Completed":
            for seconds in _durations(snapshot.jobs, (revision, stage, str(number))):
                STAGE_SECONDS.labels(stage).observe(seconds)


def _serves_on_a_gpu(pod: Object) -> bool:
    return (
        naming.label(pod, naming.STAGE) == "serve"
        and bool(pod.get("spec", {}).get("nodeName"))
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def _gpu_seconds(status: Object) -> dict[str, int]:
    """Return what training took, by revision: an edit back to an earlier one spends nothing."""
    return {
        str(revision["revision"]): int(revision.get("gpuSeconds") or 0)
        for revision in status.get("revisions") or ()
    }


def _endings(status: Object) -> dict[tuple[Any, ...], tuple[str, str]]:
    """Return outcome and reason of the attempts that ended, by revision, stage, number, build.

    The trainer's word for the reason is taken only if it is a word: it becomes a label.
    """
    endings = {}
    for revision in status.get("revisions") or ():
        for stage in revision.get("stages") or ():
            if stage.get("outcome") in _ENDED:
                key = (revision.get("revision"), *map(stage.get, ("stage", "attempt", "build")))
                reason = str(stage.get("reason") or stage["outcome"])
                known = _REASON.fullmatch(reason) is not None
                endings[key] = (str(stage["outcome"]), reason if known else "Other")
    return endings


def _durations(jobs: Iterable[Object], wanted: tuple[str, str, str]) -> Iterable[float]:
    for job in jobs:
        found = tuple(
            naming.label(job, key) for key in (naming.REVISION, naming.STAGE, naming.ATTEMPT)
        )
        status = job.get("status") or {}
        if found == wanted and "startTime" in status and "completionTime" in status:
            start, end = (
                datetime.fromisoformat(status[field]) for field in ("startTime", "completionTime")
            )
            yield (end - start).total_seconds()
