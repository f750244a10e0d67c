"""The figures of ``bench scale``, and their table."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from bench.cost import Cost
from bench.simulated import kubeflow
from bench.simulated.floor import Spent
from bench.simulated.kubeflow import PeerFigures
from bench.simulated.restart import Restarts
from bench.table import table


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds since the first job was created."""

    first_child: float
    """Until every job has its first Job. No pod runs and no volume is bound before."""
    ready: float
    waits: Sequence[float]
    """From an event to the write that follows it."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Results for one number of jobs."""

    jobs: int
    times: Times
    reconciles: float
    cost: Cost
    peak_bytes: float
    floor: Times
    floor_spent: Spent
    restarts: Restarts
    peer: PeerFigures | None = None


def markdown(figures: Sequence[Figures]) -> str:
    """Return the table of all sizes and the growth between them."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        (
            "seconds until every job has its first Job",
            lambda run: f"{run.times.first_child:.1f}",
        ),
        (
            "the same, client without logic (goal: ratio at most 1.8)",
            lambda run: _against(run.times.first_child, run.floor.first_child),
        ),
        ("seconds until all jobs are Ready", lambda run: f"{run.times.ready:.1f}"),
        (
            "the same, client without logic (goal: ratio at most 1.4)",
            lambda run: _against(run.times.ready, run.floor.ready),
        ),
        ("reconciles per second", lambda run: f"{run.reconciles / run.times.ready:.0f}"),
        ("reconciles per job", lambda run: f"{run.reconciles / run.jobs:.1f}"),
        ("reads per job (goal: 4)", lambda run: f"{_reads(run):.1f}"),
        ("writes per job (goal: 19)", lambda run: f"{_writes(run):.1f}"),
        ("requests per job, by verb", _verbs),
        (
            "writes per job, client without logic",
            lambda run: f"{run.floor_spent.writes / run.jobs:.1f}",
        ),
        ("processor time, s", lambda run: f"{run.cost.processor_seconds:.1f}"),
        (
            "processor time per job, ms (goal: 25)",
            lambda run: f"{1000 * run.cost.processor_seconds / run.jobs:.1f}",
        ),
        (
            "the same, client without logic",
            lambda run: f"{1000 * run.floor_spent.processor_seconds / run.jobs:.1f}",
        ),
        ("peak resident memory, MiB (goal: 200)", lambda run: f"{run.peak_bytes / 2**20:.0f}"),
        *(
            (
                f"seconds from watch event to write, {name}",
                lambda run, at=at: f"{quantiles(run.times.waits, n=100)[at]:.2f}",
            )
            for name, at in (("median", 49), ("99th percentile", 98))
        ),
        (
            "seconds from SIGKILL to the leader until the standby writes (goal: 20)",
            lambda run: f"{run.restarts.failover:.1f}",
        ),
        (
            "seconds from the start of a process until it writes (goal: 20)",
            lambda run: f"{run.restarts.start:.1f}",
        ),
        (
            "resident memory of the standby, MiB",
            lambda run: f"{run.restarts.standby_bytes / 2**20:.0f}",
        ),
    ]
    if all(run.peer for run in figures):
        peer = f"Kubeflow Trainer {kubeflow.VERSION}"
        rows += [
            (f"seconds until every TrainJob of {peer} has its Job", _of_peer),
            ("processor time per TrainJob until then, ms (trainer and JobSet)", _spent_by_peer),
        ]
    text = table(
        ("jobs created at once", *(f"{run.jobs:,}" for run in figures)),
        [(name, *map(cell, figures)) for name, cell in rows],
    )
    for small, large in itertools.pairwise(figures):
        text += (
            f"\n\nFrom {small.jobs:,} to {large.jobs:,} jobs, the time until all jobs are "
            f"Ready grows by a factor of {large.times.ready / small.times.ready:.1f}, and the "
            "processor time grows by a factor of "
            f"{large.cost.processor_seconds / small.cost.processor_seconds:.1f} "
            f"(goal for both factors: at most {1.04 * large.jobs / small.jobs:.1f})."
        )
    return text


def _against(seconds: float, least: float) -> str:
    return f"{least:.1f} (ratio {seconds / least:.2f})"


def _of_peer(figures: Figures) -> str:
    assert figures.peer is not None
    return _against(figures.times.first_child, figures.peer.first_child)


def _spent_by_peer(figures: Figures) -> str:
    assert figures.peer is not None
    return f"{1000 * figures.peer.processor_seconds / figures.jobs:.1f}"


def _reads(figures: Figures) -> float:
    return figures.cost.requests.get("GET", 0) / figures.jobs


def _writes(figures: Figures) -> float:
    return sum(figures.cost.requests.values()) / figures.jobs - _reads(figures)


def _verbs(figures: Figures) -> str:
    return ", ".join(
        f"{count / figures.jobs:.1f} {verb}" for verb, count in figures.cost.requests.items()
    )
