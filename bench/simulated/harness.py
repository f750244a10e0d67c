"""What the benchmarks with simulated nodes share: servers, jobs, waits, and the operator's cost.

kube-apiserver, etcd, controller manager and operator are real processes on this machine; ``world``
simulates the nodes.
"""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tests.support.api_server import controlplane, operatorprocess
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import OperatorProcess

from bench.cost import Cost, parsed
from bench.simulated.api_client import Api
from bench.simulated.world import JOBS, World

CONFIG = {**operatorprocess.CONFIG, "logLevel": "info"}
"""The operator's configuration, with the log level of an installation."""
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
CREATORS = 16
PATIENCE_SECONDS = 3600.0


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


@asynccontextmanager
async def simulated(
    plane: ControlPlane, lasts: Callable[[str], float | None], *, held: bool = False
) -> AsyncIterator[World]:
    """Simulate the nodes within the block; an error of theirs ends the block. As ``World``."""
    async with Api(plane) as api, asyncio.TaskGroup() as group:
        world = World(api=api, lasts=lasts, held=held)
        task = group.create_task(world.run())
        yield world
        task.cancel()


async def concurrently(
    count: int, create: Callable[[int], Awaitable[Any]], *, at_once: int = CREATORS
) -> None:
    """Create objects with the numbers from 0 on, some at a time."""
    numbers = iter(range(count))

    async def creator() -> None:
        for number in numbers:
            await create(number)

    await asyncio.gather(*(creator() for _ in range(at_once)))


async def create_namespaces(api: Api, count: int, per_namespace: int) -> list[str]:
    """Create the namespaces of ``count`` jobs; return their names."""
    names = [f"team-{number}" for number in range(-(-count // per_namespace))]
    for name in names:
        await api.create_namespace(name)
    return names


async def create_jobs(api: Api, count: int, per_namespace: int) -> None:
    """Create ``count`` jobs concurrently, ``per_namespace`` in each namespace."""
    namespaces = await create_namespaces(api, count, per_namespace)

    async def create(number: int) -> None:
        # Each job has a revision of its own: no result of another job can be used again.
        body = job(f"job-{number}", training={"seed": number})
        await api.send("POST", path(namespaces[number % len(namespaces)]), body)

    await concurrently(count, create)


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


def path(namespace: str, name: str = "") -> str:
    """Return the path of a FineTuneJob, or of all of a namespace."""
    return f"{JOBS}/namespaces/{namespace}/finetunejobs" + (f"/{name}" if name else "")


async def until(what: str, ready: Callable[[], bool], every: float = 0.25) -> float:
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


def cost(running: OperatorProcess) -> Cost:
    """Return the operator's cost so far."""
    return parsed(running.get("/metrics")[1])


def reconciles(running: OperatorProcess) -> float:
    """Return the number of reconciles so far."""
    return running.metric("controller_runtime_reconcile_total")


def resident_bytes(running: OperatorProcess, *, peak: bool) -> float:
    """Return the resident memory of the process, now or at its peak."""
    status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
    match = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB$", status, re.M)
    assert match is not None
    return float(match[1]) * 1024
