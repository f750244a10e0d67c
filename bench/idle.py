"""``python bench idle``: the cost of the operator while many jobs train and nothing changes.

The benchmark starts all jobs and waits until they train. Then it counts requests and CPU time for
some minutes, at the scrape interval that applies after the first five minutes of a job (which it
skips). The pods are an exporter on this machine whose values change with each response.
"""

import argparse
import asyncio
from typing import Any

from tests.integration.controlplane import ControlPlane
from tests.integration.operatorprocess import CONFIG, operator

from bench import scale
from bench.api_client import Api
from bench.table import table
from bench.world import World

AT_ONCE = "from finetune_operator import delays; delays.SLOW_AFTER = 0.0"
"""Runs before the operator: jobs are scraped and reconciled every 60 s from the start."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--jobs", type=int, default=1000, help="number of training jobs")
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of the measurement")


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its table."""
    with (
        scale.cluster() as (plane, folder),
        operator(plane, folder, scale.quiet(CONFIG), prelude=AT_ONCE) as running,
    ):
        return asyncio.run(_rest(plane, running, options.jobs, options.minutes))


async def _rest(plane: ControlPlane, running: Any, size: int, minutes: float) -> str:
    api = Api(plane)
    world = World(api=api, lasts=_stages)
    try:
        async with scale.living(world):
            print(f"==> bring {size} jobs to training", flush=True)
            await scale.create(api, size, scale.NAMESPACE_JOBS)
            await scale.until(
                "every job trains",
                lambda: sum("train" in each.children for each in world.moments.values()) == size,
            )
            # One more reconcile of each, at the measured interval.
            await asyncio.sleep(75)
            print(f"==> measure for {minutes:.1f} minutes", flush=True)
            before, reconciles = scale.cost(running), _reconciles(running)
            await asyncio.sleep(60 * minutes)
            after = scale.cost(running)
    finally:
        await api.close()
    requests = after.since(before)
    share = (after.processor_seconds - before.processor_seconds) / (60 * minutes)
    each = size * minutes
    verbs = ", ".join(f"{count / each:.2f} {verb}" for verb, count in requests.items())
    return table(
        ("training jobs", f"{size:,}"),
        [
            ("requests per job and minute (goal: 1.1)", f"{sum(requests.values()) / each:.2f}"),
            ("requests per job and minute, by verb", verbs),
            ("reconciles per job and minute", f"{(_reconciles(running) - reconciles) / each:.2f}"),
            ("used share of one CPU core (goal: 4 %)", f"{100 * share:.1f} %"),
            ("resident memory, MiB", f"{after.resident_bytes / 2**20:.0f}"),
        ],
    )


def _stages(stage: str) -> float | None:
    return None if stage == "train" else 1.0


def _reconciles(running: Any) -> float:
    return float(running.metric("controller_runtime_reconcile_total"))
