"""``python bench soak``: random user actions while one of two replicas is killed every 20 seconds.

Users create, edit, pause, resume and delete jobs at random. In the first half of the run the leader
is killed, in the second half the standby, so that one process runs for a long time. A killed
replica returns a second later, as the same pod or as another. At the end every job is deleted, and
the remaining objects are counted.
"""

import argparse
import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import OperatorProcess, starting

from bench.simulated import harness
from bench.simulated.api_client import Api
from bench.simulated.world import LABEL, MERGE, World
from bench.table import table

KILL_SECONDS = 20.0
BACK_SECONDS = 1.0
ACTION_SECONDS = 0.5
MOST_JOBS = 30
LEFT_SECONDS = 120.0
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/soak"
LEFT = {
    "/api/v1": ("pods", "services", "configmaps", "persistentvolumeclaims"),
    "/apis/apps/v1": ("deployments", "replicasets"),
    "/apis/batch/v1": ("jobs",),
    "/apis/networking.k8s.io/v1": ("networkpolicies",),
    "/apis/policy/v1": ("poddisruptionbudgets",),
}
EDITS = (
    {"training": {"epochs": 2}},
    {"training": {"epochs": 4}},
    {"merge": {"dtype": "bfloat16"}},
    {"serving": {"maxModelLen": 1024}},
    {"suspend": True},
    {"suspend": False},
)
TASKS = """
import asyncio, gc
from prometheus_client import Gauge
from finetune_operator.telemetry.metrics import REGISTRY
def tasks():
    return sum(isinstance(value, asyncio.Task) and not value.done() for value in gc.get_objects())
Gauge("soak_tasks", "Tasks of all loops.", registry=REGISTRY).set_function(tasks)
"""
"""Runs before the operator: exports the number of asyncio tasks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--minutes", type=float, default=30.0, help="duration")
    parser.add_argument("--seed", type=int, default=1, help="random seed")


@dataclass(kw_only=True)
class Replicas:
    """Two operator replicas that are killed and restarted."""

    plane: ControlPlane
    folder: Path
    stack: ExitStack
    chance: random.Random
    running: dict[str, OperatorProcess] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))
    kills: int = 0

    def start(self, pod: str = "") -> None:
        """Start a replica, as a new pod unless one is named."""
        pod = pod or f"replica-{next(self.numbers)}"
        config = {**harness.CONFIG, "leaseName": "soak"}
        how = starting(self.plane, self.folder, config, pod=pod, prelude=TASKS)
        self.running[pod] = self.stack.enter_context(how)

    async def kill(self, api: Api, *, leader: bool) -> None:
        """Kill the leader or the standby, and restart it."""
        holder = (await api.send("GET", LEASE)).get("spec", {}).get("holderIdentity", "")
        victims = [pod for pod in self.running if (pod == holder) == leader] or list(self.running)
        pod = victims[0]
        killed = self.running.pop(pod)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        self.kills += 1
        await asyncio.sleep(BACK_SECONDS)
        self.start(pod if self.chance.random() < 0.5 else "")

    def oldest(self) -> OperatorProcess:
        """Return the replica that has run longest."""
        return next(iter(self.running.values()))


def measure(options: argparse.Namespace) -> str:
    """Run the benchmark and return its table."""
    with harness.cluster() as (plane, folder), ExitStack() as stack:
        chance = random.Random(options.seed)
        replicas = Replicas(plane=plane, folder=folder, stack=stack, chance=chance)
        return asyncio.run(_soak(plane, replicas, 60 * options.minutes, chance))


async def _soak(
    plane: ControlPlane, replicas: Replicas, seconds: float, chance: random.Random
) -> str:
    done: Counter[str] = Counter()
    memory: list[tuple[int, float]] = []
    replicas.start()
    async with harness.simulated(plane, lambda stage: chance.uniform(0.5, 3.0)) as world:
        api = world.api
        await harness.until("a replica is the leader", lambda: _tasks(replicas.oldest()) > 0)
        await asyncio.sleep(5)
        tasks = _tasks(replicas.oldest())
        replicas.start()
        users = asyncio.create_task(_users(api, world, done, chance))
        began, kill_at = time.monotonic(), KILL_SECONDS
        while (passed := time.monotonic() - began) < seconds:
            if users.done():
                users.result()
            if passed > kill_at:
                kill_at += KILL_SECONDS
                await replicas.kill(api, leader=passed < seconds / 2)
            memory.append(
                (int(8 * passed / seconds), harness.resident_bytes(replicas.oldest(), peak=False))
            )
            await asyncio.sleep(1)
        users.cancel()
        await asyncio.wait([users])
        await asyncio.sleep(1)  # until the event of the last creation arrives
        present = len(world.moments)
        ready = sum(job.ready is not None for job in world.moments.values())
        print("==> delete all jobs", flush=True)
        for namespace, name in list(world.moments):
            await _change(api, "DELETE", namespace, name)
        left = await _left(api)
        await asyncio.sleep(5)
        after = _tasks(replicas.oldest())
    middle, last = (
        mean([resident for eighth, resident in memory if eighth in eighths])
        for eighths in ((5,), (7,))
    )
    return table(
        ("duration", f"{seconds / 60:.0f} minutes"),
        [
            ("user actions", ", ".join(f"{n} {what}" for what, n in sorted(done.items()))),
            ("killed replicas", str(replicas.kills)),
            (
                "jobs at the end, and how many of these are Ready",
                f"{present}, {ready}",
            ),
            (
                "resident memory of the oldest process, 6th and last eighth of the run, MiB",
                f"{middle / 2**20:.0f}, {last / 2**20:.0f}",
            ),
            ("idle asyncio tasks, before and after", f"{tasks:.0f}, {after:.0f}"),
            ("objects left after deletion of all jobs (goal: 0)", str(left)),
        ],
    )


async def _users(api: Api, world: World, done: Counter[str], chance: random.Random) -> None:
    await api.create_namespace("soak")
    number = 0
    while True:
        await asyncio.sleep(chance.expovariate(1 / ACTION_SECONDS))
        names = [name for _, name in world.moments]
        if not names or (len(names) < MOST_JOBS and chance.random() < 0.3):
            number += 1
            await api.send("POST", harness.path("soak"), harness.job(f"job-{number}"))
            done["created"] += 1
        elif chance.random() < 0.2:
            await _change(api, "DELETE", "soak", chance.choice(names))
            done["deleted"] += 1
        else:
            edit = chance.choice(EDITS)
            await _change(api, "PATCH", "soak", chance.choice(names), {"spec": edit})
            done["paused or resumed" if "suspend" in edit else "edited"] += 1


async def _change(api: Api, method: str, namespace: str, name: str, body: object = None) -> None:
    kind = MERGE if method == "PATCH" else "application/json"
    await api.send(method, harness.path(namespace, name), body, kind)


async def _left(api: Api) -> int:
    """Wait until the jobs' objects are gone, at most ``LEFT_SECONDS``; return how many remain."""
    deadline = time.monotonic() + LEFT_SECONDS
    while True:
        left = 0
        for group, kinds in LEFT.items():
            for kind in kinds:
                listing = await api.send("GET", f"{group}/{kind}?labelSelector={LABEL}")
                left += len(listing["items"])
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(1)


def _tasks(running: OperatorProcess) -> float:
    return running.metric("soak_tasks")
