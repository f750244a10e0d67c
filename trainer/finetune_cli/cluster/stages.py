"""The stages of a job with their attempts and durations. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import GROUP
from finetune_api.contracts import labels
from finetune_api.durations import duration
from finetune_cli.cluster import pods
from finetune_cli.cluster.job import Job, seconds_since, time_of

WAITING_FOR_NODE = "Waiting"
"""Outcome of an attempt whose pod has no node yet; the status has no word for it."""


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """A stage of the revision of the spec."""

    stage: str
    outcome: str
    attempt: int
    seconds: float | None
    """Duration of the latest attempt; None if it is unknown, or for the endpoint."""
    failures: int
    disruptions: int
    preemptions: int
    reason: str
    message: str

    @property
    def time(self) -> str:
        """The duration in words."""
        if self.seconds is None:
            return "-"
        waited = "waited " if self.outcome == WAITING_FOR_NODE else ""
        return f"{waited}{duration(self.seconds)}"

    @property
    def begun(self) -> bool:
        """Whether a pod of the attempt has begun."""
        return self.outcome not in ("Starting", WAITING_FOR_NODE)

    @property
    def detail(self) -> str:
        """Restarts and the reason of a failure."""
        counts = {
            "failure": self.failures,
            "disruption": self.disruptions,
            "preemption": self.preemptions,
        }
        restarts = ", ".join(
            f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count
        )
        return "; ".join(filter(None, (self.reason, restarts)))


def stages(job: Job, jobs: Sequence[Mapping[str, Any]]) -> list[StageLine]:
    """Return the stages that have begun. jobs: the Jobs of the namespace, or those of the job."""
    return [
        StageLine(
            stage=str(attempt["stage"]),
            outcome=_outcome(job, attempt),
            attempt=int(attempt.get("attempt") or 1),
            seconds=_seconds(job, attempt, jobs),
            failures=int(attempt.get("failures") or 0),
            disruptions=int(attempt.get("disruptions") or 0),
            preemptions=int(attempt.get("preemptions") or 0),
            reason=str(attempt.get("reason") or ""),
            message=str(attempt.get("message") or ""),
        )
        for attempt in job.attempts
    ]


def _outcome(job: Job, attempt: Mapping[str, Any]) -> str:
    if attempt["stage"] == "serve" and job.condition("Serving").true:
        return "Serving"
    return str(attempt.get("outcome", "-"))


def _seconds(
    job: Job, attempt: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]
) -> float | None:
    for batch_job in jobs:
        actual = (
            pods.label(batch_job, labels.JOB),
            pods.label(batch_job, labels.REVISION),
            pods.label(batch_job, pods.STAGE),
            pods.label(batch_job, f"{GROUP}/attempt"),
        )
        wanted = (
            job.name,
            job.revision.get("revision"),
            attempt["stage"],
            str(attempt.get("attempt")),
        )
        if actual == wanted and pods.label(batch_job, f"{GROUP}/build") == attempt.get("build"):
            status = batch_job.get("status") or {}
            return seconds_since(time_of(status.get("startTime")), _end(status))
    ended = time_of(attempt.get("ended"))
    return None if ended is None else seconds_since(time_of(attempt.get("started")), ended)


def _end(status: Mapping[str, Any]) -> Any:
    """Return the time at which a Job completed or failed, None while it runs."""
    if done := time_of(status.get("completionTime")):
        return done
    ended = (
        condition.get("lastTransitionTime")
        for condition in status.get("conditions") or ()
        if condition.get("type") in ("Failed", "Suspended") and condition.get("status") == "True"
    )
    return time_of(next(ended, None))
