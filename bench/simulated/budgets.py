"""``python bench budgets``: the cost of profiles, budgets and records of usage.

The same jobs run to Ready twice, with the admission policies of the chart: without any of them,
then with 50 profiles and 50 budgets, with a namespace for each budget, and every limit that applies
to the jobs. Before each run, the API server checks jobs that it does not store, one after the
other.
"""

import argparse
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tests.integration.policy import installed
from tests.support.api_server.operatorprocess import operator

from bench.simulated import harness
from bench.simulated.api_client import Api
from bench.simulated.world import JOBS
from bench.table import table, verdict

NUMBER = 50
CHECKS = 200
MOST_CPU = 1.1
MOST_MILLISECONDS = 15.0
HOURS = 1_000_000
"""Of a budget: enough for every job, so that both runs do the same work."""
NAME_LABEL = "kubernetes.io/metadata.name"
LIMITS = {
    "maxGpuSeconds": 86_400,
    "maxSequenceLength": 8192,
    "maxReplicas": 4,
    "maxIdleSeconds": 86_400,
}
OWN = {
    "runPolicy": {"maxGpuSeconds": 3600},
    "serving": {"idle": {"afterSeconds": 3600}},
}
"""In the jobs of both runs."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run."""

    processor_seconds: float
    requests: float
    ready_seconds: float
    check_milliseconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--jobs", type=int, default=1000, help="jobs created at once")


def measure(options: argparse.Namespace) -> str:
    """Run both and return the table."""
    plain, limited = (_run(options.jobs, limits=limits) for limits in (False, True))
    cpu = limited.processor_seconds / plain.processor_seconds
    added = limited.check_milliseconds - plain.check_milliseconds
    return table(
        (f"{options.jobs:,} jobs", "without", f"{NUMBER} profiles, {NUMBER} budgets"),
        [
            (
                f"CPU time of the operator, s (goal: +10 %, {verdict(cpu <= MOST_CPU)})",
                f"{plain.processor_seconds:.1f}",
                f"{limited.processor_seconds:.1f} ({100 * (cpu - 1):+.0f} %)",
            ),
            ("requests of the operator", f"{plain.requests:.0f}", f"{limited.requests:.0f}"),
            (
                "until all are Ready, s",
                f"{plain.ready_seconds:.0f}",
                f"{limited.ready_seconds:.0f}",
            ),
            (
                f"one create, ms (goal: +15, {verdict(added <= MOST_MILLISECONDS)})",
                f"{plain.check_milliseconds:.1f}",
                f"{limited.check_milliseconds:.1f}",
            ),
        ],
    )


def _run(size: int, *, limits: bool) -> Figures:
    print(f"==> {size} jobs, {'with' if limits else 'without'} profiles and budgets", flush=True)
    config = {**harness.CONFIG, **({"usage": {"enabled": True}} if limits else {})}
    with (
        harness.cluster() as (plane, folder),
        installed(plane, {}),
        operator(plane, folder, config) as running,
    ):

        async def life() -> tuple[float, float]:
            async with harness.simulated(plane, lambda stage: 3.0) as world:
                if limits:
                    await harness.concurrently(NUMBER, lambda number: _offer(world.api, number))
                checks = await _checked(world.api, limits=limits)
                began = monotonic()
                await harness.concurrently(
                    size, lambda number: world.api.send("POST", *_submission(number, limits))
                )
                ready = await harness.until(
                    "every job is Ready",
                    lambda: sum(job.ready is not None for job in world.moments.values()) == size,
                )
            return ready - began, checks

        before = harness.cost(running)
        ready, checks = asyncio.run(life())
        spent = harness.cost(running).since(before)
    return Figures(
        processor_seconds=spent.processor_seconds,
        requests=sum(spent.requests.values()),
        ready_seconds=ready,
        check_milliseconds=checks,
    )


def _submission(number: int, limits: bool) -> tuple[str, Mapping[str, Any]]:
    """Return the path and the body of a job."""
    profile = {"profile": f"p-{number % NUMBER}"} if limits else {}
    body = harness.job(f"job-{number}", training={"seed": number}, **OWN, **profile)
    return harness.path(f"team-{number % NUMBER}"), body


async def _checked(api: Api, *, limits: bool) -> float:
    """Return the milliseconds in which the API server checks a job, one at a time."""
    await harness.create_namespaces(api, NUMBER, 1)
    took = 0.0
    for number in range(CHECKS):
        where, body = _submission(number, limits)
        began = monotonic()
        await api.send("POST", f"{where}?dryRun=All", body)
        took += monotonic() - began
    return 1000 * took / CHECKS


async def _offer(api: Api, number: int) -> None:
    """Create a profile with limits and a price, and the budget of a namespace."""
    price = {"perGpuHour": "0.80", "currency": "EUR"}
    budget = {
        "namespaceSelector": {"matchLabels": {NAME_LABEL: f"team-{number}"}},
        "period": "Month",
        "currency": "EUR",
        "training": {"gpuHours": HOURS, "cost": f"{HOURS}.00"},
        "serving": {"gpuHours": HOURS, "maxGpus": 10_000},
    }
    for kind, name, spec in (
        ("FineTuneProfile", f"p-{number}", {"price": price, "limits": LIMITS}),
        ("FineTuneBudget", f"b-{number}", budget),
    ):
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        await api.send("POST", f"{JOBS}/{kind.lower()}s", body)
