"""Results of a quickstart run as Markdown tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.cost import Cost
from bench.local_cluster.timeline import Timeline
from bench.table import table, verdict

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
    cost: Cost


def markdown(run: Run) -> str:
    """Return all tables."""
    time = run.timeline
    whole = time.ready - time.applied
    requests = ", ".join(f"{count:.0f} {method}" for method, count in run.cost.requests.items())
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
            _with_total(time.operator_waits(), GOAL_SECONDS),
        ),
        table(
            ("from the last training step to Ready: operator and verifier", "seconds"),
            _with_total(time.own_after_training(), OWN_SECONDS),
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
                    f"{sum(run.cost.requests.values()):.0f} ({requests})",
                ),
                ("processor time for this job", f"{run.cost.processor_seconds:.1f} s"),
                ("resident memory after the run", f"{run.cost.resident_bytes / 2**20:.0f} MiB"),
            ],
        ),
    ]
    return "\n".join(f"{part}\n" for part in parts)


def _with_total(delays: Mapping[str, float], goal: float) -> list[tuple[str, str]]:
    """Return a row for each delay, and one for their sum, which has a goal."""
    total = sum(delays.values())
    name = f"total (goal: under {goal:.0f} s, {verdict(total < goal)})"
    return [(what, _s(seconds, 2)) for what, seconds in (*delays.items(), (name, total))]


def _s(seconds: float, digits: int = 1) -> str:
    return f"{seconds:.{digits}f}"
