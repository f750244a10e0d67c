"""``python bench idle``: the cost of the operator while many jobs train and nothing changes.

The benchmark starts all jobs and waits until they train. Then it counts requests and CPU time for
some minutes, at the scrape interval that applies after the first five minutes of a job (which it
skips). The pods are an exporter on this machine whose values change with each response.
"""

import argparse
import asyncio

from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import OperatorProcess, operator

from bench.simulated import harness
from bench.table import table

AT_ONCE = "from finetune_operator import delays; delays.SLOW_AFTER = 0.0"
"""Runs before the operator: jobs are scraped and reconciled every 60 s from the start."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--jobs", type=int, default=1000, help="number of training jobs")
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of the measurement")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its table."""
    with (
        harness.cluster() as (plane, folder),
        operator(plane, folder, harness.CONFIG, prelude=AT_ONCE) as running,
    ):
        return asyncio.run(_rest(plane, running, options.jobs, options.minutes))


async def _rest(plane: ControlPlane, running: OperatorProcess, size: int, minutes: float) -> str:
    async with harness.simulated(plane, _stages) as world:
        print(f"==> bring {size} jobs to training", flush=True)
        await harness.create_jobs(world.api, size, harness.NAMESPACE_JOBS)
        await harness.until(
            "every job trains",
            lambda: sum("train" in job.children for job in world.moments.values()) == size,
        )
        # One more reconcile of each, at the measured interval.
        await asyncio.sleep(75)
        print(f"==> measure for {minutes:.1f} minutes", flush=True)
        before, reconciles = harness.cost(running), harness.reconciles(running)
        await asyncio.sleep(60 * minutes)
        cost = harness.cost(running).since(before)
        reconciles = harness.reconciles(running) - reconciles
    share = cost.processor_seconds / (60 * minutes)
    job_minutes = size * minutes
    verbs = ", ".join(f"{count / job_minutes:.2f} {verb}" for verb, count in cost.requests.items())
    return table(
        ("training jobs", f"{size:,}"),
        [
            (
                "requests per job and minute (goal: 1.1)",
                f"{sum(cost.requests.values()) / job_minutes:.2f}",
            ),
            ("requests per job and minute, by verb", verbs),
            ("reconciles per job and minute", f"{reconciles / job_minutes:.2f}"),
            ("used share of one CPU core (goal: 4 %)", f"{100 * share:.1f} %"),
            ("resident memory, MiB", f"{cost.resident_bytes / 2**20:.0f}"),
        ],
    )


def _stages(stage: str) -> float | None:
    return None if stage == "train" else 1.0
