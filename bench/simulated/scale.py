"""``python bench scale``: create many FineTuneJobs at once and run them to Ready.

Each run starts with an empty cluster (``harness``). For each size, a client without logic
(``floor``) runs the same jobs first, and with ``--beside kubeflow`` Kubeflow Trainer creates the
Jobs of as many TrainJobs. The ratios are therefore those of one machine in one state.
"""

import argparse
import asyncio
import itertools
from dataclasses import replace
from time import monotonic

from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import operator

from bench.simulated import floor, harness, kubeflow, restart
from bench.simulated.scale_table import Figures, Times, markdown

STAGE_SECONDS = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--jobs", default="1000,5000", help="jobs created at once, for example 1000,5000"
    )
    parser.add_argument(
        "--per-namespace", type=int, default=harness.NAMESPACE_JOBS, help="jobs per namespace"
    )
    parser.add_argument(
        "--beside", choices=("kubeflow",), help="also build and run Kubeflow Trainer with JobSet"
    )


def measure(options: argparse.Namespace) -> str:
    """Run each size and return the tables."""
    life = floor.recorded(harness.job("")["spec"])
    programs = kubeflow.programs() if options.beside == "kubeflow" else None
    config = {**harness.CONFIG, "leaseName": "scale"}
    figures = []
    for size in map(int, options.jobs.split(",")):
        print(f"==> {size} jobs at once, client without logic", flush=True)
        with harness.cluster() as (plane, _), floor.client(plane, life) as stop:
            least = asyncio.run(_life(plane, size, options.per_namespace))
            spent = stop()
        print(f"==> {size} jobs at once", flush=True)
        with harness.cluster() as (plane, folder), operator(plane, folder, config) as running:
            before, reconciles = harness.cost(running), harness.reconciles(running)
            times = asyncio.run(_life(plane, size, options.per_namespace))
            figure = Figures(
                jobs=size,
                times=times,
                reconciles=harness.reconciles(running) - reconciles,
                cost=harness.cost(running).since(before),
                peak_bytes=harness.resident_bytes(running, peak=True),
                floor=least,
                floor_spent=spent,
                restarts=restart.measure(plane, folder, config, running),
            )
        peer = None
        if programs is not None:
            print(f"==> {size} TrainJobs at once", flush=True)
            with harness.cluster() as (plane, folder):
                peer = kubeflow.run(plane, folder, programs, size, options.per_namespace)
        figures.append(replace(figure, peer=peer))
        print(markdown(figures), flush=True)
    return markdown(figures)


async def _life(plane: ControlPlane, size: int, per_namespace: int) -> Times:
    """Create jobs and run them to Ready, whoever writes their objects."""
    async with harness.simulated(plane, lambda stage: STAGE_SECONDS, held=True) as world:
        moments = world.moments
        began = monotonic()
        await harness.create_jobs(world.api, size, per_namespace)
        print(f"    created after {monotonic() - began:.1f} s", flush=True)
        first = await harness.until(
            "every job has a child",
            lambda: sum(bool(job.children) for job in moments.values()) == size,
        )
        print(f"    every job has a child after {first - began:.1f} s", flush=True)
        world.released.set()
        ready = await harness.until(
            "every job is Ready",
            lambda: sum(job.ready is not None for job in moments.values()) == size,
        )
    return Times(
        first_child=first - began,
        ready=ready - began,
        waits=sorted(itertools.chain.from_iterable(job.waits for job in moments.values())),
    )
