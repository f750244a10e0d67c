"""``python bench scale``: create many FineTuneJobs at once and run them to Ready.

kube-apiserver, etcd, controller manager and operator are real processes on this machine; ``world``
simulates the nodes. Each run starts with an empty cluster. For each size, a client without logic
(``floor``) runs the same jobs first, and with ``--beside kubeflow`` Kubeflow Trainer creates the
Jobs of as many TrainJobs. The ratios are therefore those of one machine in one state.
"""

import argparse
import asyncio
import itertools
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from tests.integration import controlplane
from tests.integration.controlplane import ControlPlane
from tests.integration.operatorprocess import CONFIG, OperatorProcess, operator

from bench import floor, kubeflow, restart
from bench.api_client import Api
from bench.cost import Cost, parsed
from bench.scale_table import Figures, Times, markdown
from bench.world import JOBS, Moments, World

CONTROLLERS = (
    "deployment-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "persistentvolumeclaim-protection-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)
"""Controllers that a FineTuneJob needs. The simulated nodes bind the volumes."""
NAMESPACE_JOBS = 100
STAGE_SECONDS = 3.0
CREATORS = 16
PATIENCE_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--jobs", default="1000,5000", help="jobs created at once, for example 1000,5000"
    )
    parser.add_argument(
        "--per-namespace", type=int, default=NAMESPACE_JOBS, help="jobs per namespace"
    )
    parser.add_argument(
        "--beside", choices=("kubeflow",), help="also build and run Kubeflow Trainer with JobSet"
    )


def measure(options: argparse.Namespace) -> str:
    """Run each size and return the tables."""
    sizes = [int(size) for size in options.jobs.split(",")]
    life = floor.recorded(job("")["spec"])
    programs = kubeflow.programs() if options.beside == "kubeflow" else None
    figures = []
    for size in sizes:
        print(f"==> {size} jobs at once, client without logic", flush=True)
        with cluster() as (plane, _), floor.client(plane, life) as bare:
            least = asyncio.run(_life(plane, size, options.per_namespace))
            spent = bare.stop()
        print(f"==> {size} jobs at once", flush=True)
        config = {**quiet(CONFIG), "leaseName": "scale"}
        with cluster() as (plane, folder), operator(plane, folder, config) as running:
            before, reconciles = cost(running), running.metric("controller_runtime_reconcile_total")
            times = asyncio.run(_life(plane, size, options.per_namespace))
            after = cost(running)
            figures.append(
                Figures(
                    jobs=size,
                    times=times,
                    reconciles=running.metric("controller_runtime_reconcile_total") - reconciles,
                    cost=Cost(
                        requests=after.since(before),
                        processor_seconds=after.processor_seconds - before.processor_seconds,
                        resident_bytes=after.resident_bytes,
                    ),
                    peak_bytes=peak(running),
                    floor=least,
                    floor_spent=spent,
                    restarts=restart.measure(plane, folder, config, running, job("")),
                )
            )
        if programs is not None:
            print(f"==> {size} TrainJobs at once", flush=True)
            with cluster() as (plane, folder):
                peer = kubeflow.run(plane, folder, programs, size, options.per_namespace)
            figures[-1] = replace(figures[-1], peer=peer)
        print(markdown(figures), flush=True)
    return markdown(figures)


@contextmanager
def cluster() -> Iterator[tuple[ControlPlane, Path]]:
    """Start a control plane with a controller manager without client rate limits."""
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        folder = Path(name)
        with (
            controlplane.control_plane(folder) as plane,
            controlplane.controller_manager(
                plane,
                f"--controllers={','.join(CONTROLLERS)}",
                "--kube-api-qps=5000",
                "--kube-api-burst=5000",
                "--concurrent-job-syncs=20",
                "--concurrent-deployment-syncs=20",
                "--concurrent-replicaset-syncs=20",
            ),
        ):
            yield plane, folder


def quiet(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operator configuration with the log level of an installation."""
    return {**config, "logLevel": "info"}


@asynccontextmanager
async def living(world: World) -> AsyncIterator[None]:
    """Run a world within the block; an error in it ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.run())
        yield
        task.cancel()


async def create(api: Api, count: int, per_namespace: int) -> None:
    """Create ``count`` jobs concurrently, ``per_namespace`` in each namespace."""
    namespaces = [f"team-{number}" for number in range(-(-count // per_namespace))]
    for name in namespaces:
        await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    numbers = iter(range(count))

    async def creator() -> None:
        for number in numbers:
            namespace = namespaces[number % len(namespaces)]
            # Each job has a revision of its own: no result of another job can be used again.
            body = job(f"job-{number}", training={"seed": number})
            await api.send("POST", f"{JOBS}/namespaces/{namespace}/finetunejobs", body)

    await asyncio.gather(*(creator() for _ in range(CREATORS)))


def job(name: str, **spec: Any) -> dict[str, Any]:
    """Return a FineTuneJob."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://acme/base"},
            "dataset": {"source": "hf://acme/data", "format": "alpaca"},
            **spec,
        },
    }


async def until(what: str, ready: Any, every: float = 0.25) -> float:
    """Wait until ``ready()``; return the time. Raise TimeoutError."""
    deadline, logged = monotonic() + PATIENCE_SECONDS, monotonic()
    while not ready():
        if monotonic() > deadline:
            raise TimeoutError(f"{what}: not reached within {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(every)
        if monotonic() - logged > 30:
            logged = monotonic()
            print(f"    waiting: {what}", flush=True)
    return monotonic()


async def _life(plane: ControlPlane, size: int, per_namespace: int) -> Times:
    """Create jobs and run them to Ready, whoever writes their objects."""
    api = Api(plane)
    world = World(api=api, lasts=lambda stage: STAGE_SECONDS, held=True)
    moments: Mapping[Any, Moments] = world.moments
    try:
        async with living(world):
            began = monotonic()
            await create(api, size, per_namespace)
            print(f"    created after {monotonic() - began:.1f} s", flush=True)
            first = await until(
                "every job has a child",
                lambda: sum(bool(each.children) for each in moments.values()) == size,
            )
            print(f"    every job has a child after {first - began:.1f} s", flush=True)
            world.released.set()
            ready = await until(
                "every job is Ready",
                lambda: sum(each.ready is not None for each in moments.values()) == size,
            )
    finally:
        await api.close()
    return Times(
        first_child=first - began,
        ready=ready - began,
        waits=sorted(itertools.chain.from_iterable(each.waits for each in moments.values())),
    )


def cost(running: OperatorProcess) -> Cost:
    """Return the operator's cost so far."""
    return parsed(running.get("/metrics")[1])


def peak(running: OperatorProcess) -> float:
    """Return the process's peak resident memory in bytes."""
    status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    assert found is not None
    return float(found[1]) * 1024
