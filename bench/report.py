"""Results of a quickstart run as Markdown tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.table import table
from bench.timeline import Timeline

NAMES = {
    "prepare": "prepare (download, check, tokenize)",
    "train": "train",
    "merge": "merge",
    "serve": "serve (load, until ready)",
}
GOAL_SECONDS = 3.0
OWN_SECONDS = 5.0
"""Goal for operator and verifier between the last training step and Ready."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Measurements of one quickstart run."""

    timeline: Timeline
    steps: int
    start_seconds: float
    requests: Mapping[str, float]
    processor_seconds: float
    resident_bytes: float


def markdown(run: Run) -> str:
    """Return all tables."""
    time = run.timeline
    waits = time.operator_waits()
    own = sum(waits.values())
    whole = time.ready - time.applied
    requests = ", ".join(f"{count:.0f} {method}" for method, count in run.requests.items())
    verdict = "met" if own < GOAL_SECONDS else "missed"
    after = time.own_after_training()
    after_verdict = "met" if sum(after.values()) < OWN_SECONDS else "missed"
    parts = [
        table(
            ("from", "to", "seconds"),
            [
                ("`kubectl apply`", "first training step", _s(time.first_step - time.applied)),
                (
                    "first training step",
                    f"last of {run.steps} steps",
                    _s(time.last_step - time.first_step),
                ),
                ("last training step", "Ready", _s(time.ready - time.last_step)),
                ("`kubectl apply`", "Ready", _s(whole)),
            ],
        ),
        table(
            (
                "stage (times in seconds)",
                "operator reacts",
                "Kubernetes starts the pod",
                "container runs",
                "Kubernetes reports the result",
                "total",
            ),
            [
                (
                    NAMES[name],
                    _s(stage.created - stage.due, 2),
                    _s(stage.running - stage.created),
                    _s(stage.ended - stage.running),
                    _s(stage.reported - stage.ended, 2),
                    _s(stage.reported - stage.due),
                )
                for name, stage in time.stages.items()
            ],
        ),
        table(
            ("delay caused by the operator", "seconds"),
            [(what, _s(seconds, 2)) for what, seconds in waits.items()]
            + [(f"total (goal: under {GOAL_SECONDS:.0f} s, {verdict})", _s(own, 2))],
        ),
        table(
            ("from the last training step to Ready: operator and verifier", "seconds"),
            [(what, _s(seconds, 2)) for what, seconds in after.items()]
            + [
                (
                    f"total (goal: under {OWN_SECONDS:.0f} s, {after_verdict})",
                    _s(sum(after.values()), 2),
                )
            ],
        ),
        table(
            ("from the last training step to Ready: trainer, Kubernetes and vLLM", "seconds"),
            [(what, _s(seconds)) for what, seconds in time.others_after_training().items()],
        ),
        table(
            ("measurement of the operator", "value"),
            [
                ("time from process start until ready", f"{run.start_seconds:.2f} s"),
                (
                    "requests to the API server for this job",
                    f"{sum(run.requests.values()):.0f} ({requests})",
                ),
                ("processor time for this job", f"{run.processor_seconds:.1f} s"),
                ("resident memory after the run", f"{run.resident_bytes / 2**20:.0f} MiB"),
            ],
        ),
    ]
    return "\n".join(f"{part}\n" for part in parts)


def _s(seconds: float, digits: int = 1) -> str:
    return f"{seconds:.{digits}f}"
