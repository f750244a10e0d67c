"""The least time in which a client without logic can bring FineTuneJobs to Ready.

The client is a separate process, like the operator. It sends the writes of a recorded life: a job's
first writes once the job exists, and the others once a Job is complete or the Deployment available.
It decides nothing, reads nothing and keeps nothing; only names, uid and resourceVersion are filled
in. The life is recorded with the operator's planner in the simulated cluster of the tests, so it
always has the writes that the operator would send.
"""

import asyncio
import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import orjson
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.api_server.controlplane import ControlPlane

from bench.simulated.api_client import Api
from bench.simulated.world import LABEL, WATCHED
from finetune_operator.actions import INDEPENDENT_KINDS
from finetune_operator.controller.apply import AppliedVersions, PlanExecutor, needs_writes
from finetune_operator.kube.client import FIELD_MANAGER, Kube
from finetune_operator.kube.kinds import path_of
from finetune_operator.kube.recorder import Recorder
from finetune_operator.types import Object

CONNECTIONS = 32
STAGE_SECONDS = 3.0
NAME, NAMESPACE, UID, VERSION = "recorded-name", "ns", "uid-1", "recorded-version"
STEPS = ("created", "prepare", "train", "merge", "serve")
JSON, MERGE, APPLY = (
    "application/json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True, kw_only=True)
class Write:
    """One request of the recorded life, with the recorded names in path and body."""

    method: str
    path: str
    body: bytes
    content: str
    first: bool
    """Whether the writes after it wait for its response: status, Job, Deployment."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the client has spent."""

    writes: int
    processor_seconds: float


class _Recording(Kube):
    """Takes the operator's writes and sends nothing."""

    def __init__(self) -> None:
        self.writes: list[Write] = []

    def _take(self, method: str, path: str, body: Any, content: str, kind: str) -> Object:
        independent = kind in INDEPENDENT_KINDS or kind == "Event"
        text = orjson.dumps(body)
        self.writes.append(
            Write(method=method, path=path, body=text, content=content, first=not independent)
        )
        return {**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "1"}}

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        path = path_of(body).rpartition("/")[0]
        return self._take("POST", path, body, JSON, body["kind"])

    async def apply(self, body: Object) -> Object:
        metadata = {
            k: v for k, v in body["metadata"].items() if k not in ("uid", "resourceVersion")
        }
        return self._take(
            "PATCH",
            f"{path_of(body)}?fieldManager={FIELD_MANAGER}&force=true",
            {**body, "metadata": metadata},
            APPLY,
            body["kind"],
        )

    async def replace_status(self, job: Object, status: Object) -> Object:
        metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {
            **{key: job[key] for key in ("apiVersion", "kind", "spec")},
            "metadata": {**metadata, "resourceVersion": VERSION},
            "status": status,
        }
        return self._take("PUT", f"{path_of(job)}/status", body, JSON, job["kind"])

    async def get(self, kind: str, namespace: str, name: str) -> None:
        return None


def recorded(spec: Mapping[str, Any]) -> dict[str, list[Write]]:
    """Return the writes of a life by the event that they follow (``STEPS``)."""
    cluster = Cluster(name=NAME, spec=dict(spec))
    recording, life = _Recording(), {}
    executor = PlanExecutor(kube=recording, recorder=Recorder(recording, instance="floor"))
    applied: AppliedVersions = {}
    for step in STEPS:
        _happen(cluster, step)
        following = False
        while True:
            snapshot = cluster.observe()
            plan = cluster.plan_of(snapshot)
            # A status alone, with the uid of the Job that was just created, can wait for the next.
            if following and not needs_writes(snapshot, plan, applied):
                break
            asyncio.run(executor.execute(snapshot, plan, cluster.now, applied=applied))
            cluster.carry_out(snapshot, plan)
            following = True
        life[step], recording.writes = recording.writes, []
    return life


def _happen(cluster: Cluster, step: str) -> None:
    """Let the pod of a stage end, or the serving pods become ready, without a reconcile."""
    if step == "created":
        return
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, step)
    controllers.start(cluster, pod)
    controllers.sync(cluster)
    if step != "serve":
        cluster.wait(STAGE_SECONDS)
        controllers.finish(cluster, pod, 0, controllers.message(step))
        controllers.sync(cluster)


@dataclass(kw_only=True)
class _Client:
    """Sends the life of every job."""

    api: Api
    life: Mapping[str, Sequence[Write]]
    uids: dict[tuple[str, str], str] = field(default_factory=dict)
    versions: dict[tuple[str, str], str] = field(default_factory=dict)
    turns: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)
    reached: set[tuple[str, str, str]] = field(default_factory=set)
    sent: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def see(self, step: str, key: tuple[str, str]) -> None:
        """Start the writes that follow an event, once."""
        if (step, *key) not in self.reached:
            self.reached.add((step, *key))
            task = asyncio.create_task(self._step(step, key))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _step(self, step: str, key: tuple[str, str]) -> None:
        async with self.turns.setdefault(key, asyncio.Lock()):
            together: list[Write] = []
            for write in self.life[step]:
                if not write.first:
                    together.append(write)
                    continue
                await asyncio.gather(*(self._send(queued, key) for queued in together))
                together = []
                await self._send(write, key)
            await asyncio.gather(*(self._send(queued, key) for queued in together))

    async def _send(self, write: Write, key: tuple[str, str]) -> None:
        namespace, name = key

        def own(text: str) -> str:
            return text.replace(f"/namespaces/{NAMESPACE}/", f"/namespaces/{namespace}/").replace(
                NAME, name
            )

        body = (
            write.body.replace(
                f'"namespace":"{NAMESPACE}"'.encode(), f'"namespace":"{namespace}"'.encode()
            )
            .replace(NAME.encode(), name.encode())
            .replace(f'"{UID}"'.encode(), f'"{self.uids[key]}"'.encode())
            .replace(VERSION.encode(), self.versions[key].encode())
        )
        self.sent += 1
        async with self.api.session.request(
            write.method,
            self.api.server + own(write.path),
            data=body,
            headers={"Content-Type": write.content},
        ) as response:
            text = await response.read()
            if response.status >= 300:
                raise RuntimeError(f"{write.method} {write.path}: {response.status} {text[:500]!r}")
        if write.method == "PUT":
            self.versions[key] = orjson.loads(text)["metadata"]["resourceVersion"]

    def job(self, job: Object) -> None:
        metadata = job["metadata"]
        key = metadata["namespace"], metadata["name"]
        if key not in self.uids:
            self.uids[key], self.versions[key] = metadata["uid"], metadata["resourceVersion"]
            self.see("created", key)

    def child(self, job: Object) -> None:
        if any(
            condition["type"] == "Complete" and condition["status"] == "True"
            for condition in job.get("status", {}).get("conditions") or ()
        ):
            labels = job["metadata"]["labels"]
            self.see(labels["finetune.dev/stage"], (job["metadata"]["namespace"], labels[LABEL]))

    def deployment(self, deployment: Object) -> None:
        metadata = deployment["metadata"]
        if deployment.get("status", {}).get("availableReplicas"):
            self.see("serve", (metadata["namespace"], metadata["labels"][LABEL]))


HANDLERS = {"FineTuneJob": _Client.job, "Job": _Client.child, "Deployment": _Client.deployment}


async def _run(plane: ControlPlane, life: Mapping[str, Sequence[Write]], pipe: Connection) -> None:
    async with Api(plane, connections=CONNECTIONS + len(HANDLERS)) as api:
        client = _Client(api=api, life=life)

        async def watch(kind: str) -> None:
            query = "" if kind == "FineTuneJob" else f"labelSelector={LABEL}"
            async for what, manifest in api.watch(WATCHED[kind], query):
                if what != "DELETED":
                    HANDLERS[kind](client, manifest)

        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        parts = [
            asyncio.create_task(stopped.wait()),
            *(asyncio.create_task(watch(kind)) for kind in HANDLERS),
        ]
        pipe.send("ready")
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(Spent(writes=client.sent, processor_seconds=used.ru_utime + used.ru_stime))
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


@contextmanager
def client(
    plane: ControlPlane, life: Mapping[str, Sequence[Write]]
) -> Iterator[Callable[[], Spent]]:
    """Run the client in a process of its own until the end of the block.

    The yielded function stops it, and returns what it spent, or raises EOFError if it has failed.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=lambda: asyncio.run(_run(plane, life, theirs)), name="floor", daemon=True
    )
    process.start()
    theirs.close()

    def stop() -> Spent:
        process.terminate()
        spent = ours.recv()
        assert isinstance(spent, Spent)
        return spent

    try:
        ours.recv()
        yield stop
    finally:
        process.kill()
        process.join()
