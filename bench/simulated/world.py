"""Simulated nodes and an observer for the scale benchmarks.

The control plane has no nodes. This module simulates them through the API: it binds volumes, runs
pods for some seconds, ends them with the trainer's termination message, and makes serving pods
ready. It uses the same API server as the operator, from another process. It also records times: all
of them are arrivals of watch events over one connection each, so they are comparable.
"""

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from time import monotonic
from typing import Any

from aiohttp import web
from tests.fakes import kubelet

from bench.simulated.api_client import Api, Object
from finetune_api.contracts.ports import TRAINER_METRICS, VERIFIER_METRICS

FIRST_ADDRESS = IPv4Address("127.77.0.1")
"""Pods get addresses from here on; all of 127/8 belongs to the loopback interface."""
LABEL = "finetune.dev/job"
STAGES = ("prepare", "train", "merge", "serve")
MERGE = "application/merge-patch+json"
JOBS = "/apis/finetune.dev/v1alpha1"
WATCHED = {
    "FineTuneJob": f"{JOBS}/finetunejobs",
    "Pod": "/api/v1/pods",
    "PersistentVolumeClaim": "/api/v1/persistentvolumeclaims",
    "Job": "/apis/batch/v1/jobs",
    "Deployment": "/apis/apps/v1/deployments",
}
VERIFIED = """finetune_pod_info{{uid="{uid}"}} 1
finetune_verify_outcome{{outcome="Verified"}} 1
finetune_verify_distance 0.001
finetune_verify_tolerance 0.01
finetune_verify_seconds 3
"""

Key = tuple[str, str]


@dataclass(kw_only=True)
class Moments:
    """When the objects of one FineTuneJob were first observed, in seconds of one clock."""

    created: float
    due: float
    """Time from which the operator could create the next object."""
    children: dict[str, float] = field(default_factory=dict)
    """By stage: when its first Job, or the Deployment, was observed."""
    waits: list[float] = field(default_factory=list)
    """Seconds from each event to the operator's resulting write."""
    ready: float | None = None


@dataclass(kw_only=True)
class World:
    """The simulated nodes. ``lasts``: seconds that a pod of a stage runs; None: until deleted.

    held: bind no volume and run no pod until ``released`` is set.
    """

    api: Api
    lasts: Callable[[str], float | None]
    held: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)
    moments: dict[Key, Moments] = field(default_factory=dict)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    _created: set[str] = field(default_factory=set)
    _hosts: Iterator[int] = field(default_factory=itertools.count)
    _uids: dict[str, str] = field(default_factory=dict)
    """UIDs of pods by address."""

    def __post_init__(self) -> None:
        if not self.held:
            self.released.set()

    async def run(self) -> None:
        """Simulate the nodes and watch until cancelled. Raise the error of a failed task."""
        async with self._tasks as group:
            group.create_task(self._serve())
            for kind, path in WATCHED.items():
                group.create_task(self._watch(kind, path))

    async def _watch(self, kind: str, path: str) -> None:
        see = {
            "FineTuneJob": self._job,
            "Pod": self._pod,
            "PersistentVolumeClaim": self._claim,
            "Job": self._child,
            "Deployment": self._deployment,
        }[kind]
        query = "" if kind == "FineTuneJob" else f"labelSelector={LABEL}"
        async for what, manifest in self.api.watch(path, query):
            see(what, manifest)

    def _job(self, what: str, job: Object) -> None:
        key = job["metadata"]["namespace"], job["metadata"]["name"]
        if what == "DELETED":
            self.moments.pop(key, None)
            return
        now = monotonic()
        moments = self.moments.setdefault(key, Moments(created=now, due=now))
        if moments.ready is None and _is(job, "Ready"):
            moments.ready = now
            if "serve" in moments.children:
                moments.waits.append(now - moments.due)

    def _child(self, what: str, job: Object) -> None:
        moments = self.moments.get(_owner(job))
        if moments is None or what == "DELETED":
            return
        if _is(job, "Complete"):
            moments.due = monotonic()
        else:
            self._made(moments, kubelet.stage_of(job))

    def _deployment(self, what: str, deployment: Object) -> None:
        moments = self.moments.get(_owner(deployment))
        if moments is None or what == "DELETED":
            return
        self._made(moments, "serve")
        if moments.ready is None and deployment.get("status", {}).get("availableReplicas"):
            moments.due = monotonic()

    def _made(self, moments: Moments, stage: str) -> None:
        if stage not in moments.children:
            moments.children[stage] = monotonic()
            moments.waits.append(moments.children[stage] - moments.due)

    def _claim(self, what: str, claim: Object) -> None:
        if what != "DELETED" and claim.get("status", {}).get("phase") != "Bound":
            self._once(claim, self._bind(claim))

    def _pod(self, what: str, pod: Object) -> None:
        if what == "DELETED":
            self._created.discard(pod["metadata"]["uid"])
        elif "deletionTimestamp" in pod["metadata"]:
            if pod.get("status", {}).get("phase") in ("Pending", "Running"):
                self._once(pod, self._end(pod), "end")
        else:
            self._once(pod, self._live(pod))

    def _once(self, manifest: Object, doing: Any, what: str = "") -> None:
        """Start a task for an object unless it was started before."""
        key = manifest["metadata"]["uid"] + what
        if key in self._created:
            doing.close()
            return
        self._created.add(key)
        self._tasks.create_task(doing)

    async def _bind(self, claim: Object) -> None:
        await self.released.wait()
        path = _path("/api/v1", claim, "persistentvolumeclaims")
        volume = {"spec": {"volumeName": f"pv-{claim['metadata']['uid']}"}}
        await self.api.send("PATCH", path, volume, MERGE)
        storage = claim["spec"]["resources"]["requests"]["storage"]
        bound = {
            "phase": "Bound",
            "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": storage},
        }
        await self.api.send("PATCH", f"{path}/status", {"status": bound}, MERGE)

    async def _live(self, pod: Object) -> None:
        """Run a pod, and end it if its stage ends."""
        await self.released.wait()
        stage = kubelet.stage_of(pod)
        address = str(FIRST_ADDRESS + next(self._hosts))
        self._uids[address] = pod["metadata"]["uid"]
        if stage == "serve":
            await self._report(pod, {**kubelet.serving(), "podIP": address})
            return
        # A container without a readiness probe is ready once it runs.
        ready = kubelet.serving()["conditions"]
        await self._report(pod, {**kubelet.running(), "podIP": address, "conditions": ready})
        seconds = self.lasts(stage)
        if seconds is not None:
            await asyncio.sleep(seconds)
            await self._report(pod, kubelet.completed(stage))

    async def _end(self, pod: Object) -> None:
        """Stop a pod that is being deleted, as a kubelet does: report it, then remove it."""
        ended = {"phase": "Failed", "reason": "Terminated"}
        path = _path("/api/v1", pod, "pods")
        await self.api.send("PATCH", f"{path}/status", {"status": ended}, MERGE)
        await self.api.send("DELETE", path, {"gracePeriodSeconds": 0})

    async def _report(self, pod: Object, status: Mapping[str, Any]) -> None:
        path = _path("/api/v1", pod, "pods")
        await self.api.send("PATCH", f"{path}/status", {"status": status}, MERGE)

    async def _serve(self) -> None:
        """Serve pod metrics; the training advances by one step per scrape."""
        asked: Counter[str] = Counter()

        def requested(request: web.Request) -> tuple[str, str]:
            """Return address and uid of the pod that a request is for."""
            assert request.transport is not None
            address, _ = request.transport.get_extra_info("sockname")
            return address, self._uids.get(address, "")

        async def training(request: web.Request) -> web.Response:
            address, uid = requested(request)
            asked[address] += 1
            return web.Response(text=exposition(asked[address], uid))

        async def verified(request: web.Request) -> web.Response:
            _, uid = requested(request)
            return web.Response(text=VERIFIED.format(uid=uid))

        runners = []
        try:
            for port, answer in ((TRAINER_METRICS, training), (VERIFIER_METRICS, verified)):
                application = web.Application()
                application.router.add_get("/metrics", answer)
                runner = web.AppRunner(application, access_log=None)
                runners.append(runner)
                await runner.setup()
                await web.SockSite(runner, _listening(port)).start()
            await asyncio.Event().wait()
        finally:
            for runner in runners:
                with suppress(Exception):
                    await runner.cleanup()


def _listening(port: int) -> socket.socket:
    """Return a socket for all addresses of the loopback interface, and no other."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    listening.bind(("", port))
    return listening


def exposition(step: int, pod_uid: str) -> str:
    """Return the metrics of a trainer at a step."""
    values = {
        "finetune_progress_ratio": step % 1000 / 1000,
        "finetune_global_step": step,
        "finetune_max_steps": 10_000_000,
        "finetune_train_loss": 1 + 1 / step,
        "finetune_eval_loss": 1.25,
        "finetune_tokens_per_second": 1234.5,
        "finetune_eta_seconds": 10_000_000 - step,
        "finetune_gpu_seconds_total": step,
        "finetune_last_checkpoint_step": step // 100 * 100,
    }
    figures = "".join(
        f"# HELP {name} Simulated trainer metric.\n# TYPE {name} gauge\n{name} {value}\n"
        for name, value in values.items()
    )
    pod = f'finetune_pod_info{{uid="{pod_uid}"}} 1\n'
    return (
        f"# HELP finetune_pod_info Simulated pod.\n# TYPE finetune_pod_info gauge\n{pod}{figures}"
    )


def _owner(manifest: Object) -> Key:
    return manifest["metadata"]["namespace"], manifest["metadata"]["labels"][LABEL]


def _path(root: str, manifest: Object, plural: str) -> str:
    metadata = manifest["metadata"]
    return f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def _is(manifest: Object, type_: str) -> bool:
    return any(
        condition["type"] == type_ and condition["status"] == "True"
        for condition in manifest.get("status", {}).get("conditions") or ()
    )
