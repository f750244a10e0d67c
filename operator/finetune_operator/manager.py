"""The manager: connects the parts of the operator, starts, supervises and stops them.

``app`` calls ``start`` and ``stop``. If a part ends in between, the manager sends the process the
signal after which kopf stops it, and ``stop`` raises the error of the part: the process ends with
1 and the cause in the log, and the kubelet restarts it.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import finetune_api
from finetune_operator import health
from finetune_operator.config import ProcessConfig, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.environment import Environment
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.kube.recorder import Recorder
from finetune_operator.leader_election import LeaderElector
from finetune_operator.metrics_server import server as metrics_server
from finetune_operator.reconcile import plan
from finetune_operator.snapshot.reader import Reader
from finetune_operator.snapshot.reflector import Reflector, reflectors
from finetune_operator.snapshot.scraper import NAMESPACE_WORKERS, Scraper
from finetune_operator.snapshot.store import ObjectStore, version_of
from finetune_operator.types import Object
from finetune_operator.workqueue.workqueue import WorkQueue

RETRY_SECONDS = 2.0
"""Between two checks whether the API server serves FineTuneJobs."""

logger = logging.getLogger("finetune_operator")


@dataclass(kw_only=True)
class Manager:
    """The running parts of the operator."""

    store: ObjectStore
    controller: Controller
    resync: Resync
    parts: asyncio.Task[None]
    resources: AsyncExitStack
    """Servers and connections, which the parts use until they end."""

    def deliver(self, what: str | None, job: dict[str, Any]) -> None:
        """Store a FineTuneJob, and wake its reconcile.

        what: the type of the watch event, None for an object of a list. kopf's lists do not report
        the jobs that were deleted before, so a resync follows.
        """
        # kopf holds the event a little longer, and may receive the next page meanwhile.
        for unused in ("managedFields", "annotations"):
            job["metadata"].pop(unused, None)
        if what is None:
            self.resync.request()
        found: Object = {**job, "apiVersion": finetune_api.API_VERSION, "kind": FINETUNEJOB}
        change = self.store.remove if what == "DELETED" else self.store.put
        for key in change(found):
            self.controller.notify(key, FINETUNEJOB, version_of(found), True)

    async def stop(self) -> None:
        """Stop all parts. Raises the error that ended one of them before."""
        ended = self.parts.done()
        self.parts.remove_done_callback(_end_process)
        self.parts.cancel()
        (result,) = await asyncio.gather(self.parts, return_exceptions=True)
        await self.resources.aclose()
        if isinstance(result, Exception):
            raise result
        if ended:
            raise RuntimeError("a part of the operator ended without an error")
        logger.info("stopped")


async def start(config: ProcessConfig, settings: Settings, environment: Environment) -> Manager:
    """Start all parts once the API server serves FineTuneJobs. Raises OSError and Transient."""
    async with AsyncExitStack() as stack:
        kube = await Kube.connect()
        stack.push_async_callback(kube.close)
        scraper = Scraper(WorkQueue("scrapes", namespace_limit=NAMESPACE_WORKERS))
        elector = LeaderElector(
            kube=kube,
            namespace=config.operator_namespace,
            name=config.lease_name,
            identity=environment.identity,
        )
        kube.transport.fence = elector.remaining
        store = ObjectStore()
        reconciler = Reconciler(
            reader=Reader(kube=kube, store=store, metrics=scraper, settings=settings),
            executor=PlanExecutor(
                kube=kube, recorder=Recorder(kube, instance=environment.identity)
            ),
            planner=plan,
        )
        controller = Controller(reconciler=reconciler)
        resync = Resync(
            kube=kube,
            store=store,
            namespaces=tuple(config.watch_namespaces),
            recheck=controller.recheck,
        )
        children = reflectors(kube, store, config.watch_namespaces, controller.notify)
        probes = health.Health(controller, children)
        await stack.enter_async_context(health.serving(probes, environment.probe_port))
        bound = await stack.enter_async_context(
            metrics_server.serving(config.metrics, kube, environment.metrics_port)
        )
        await _wait_for_crd(kube)
        parts = asyncio.create_task(
            run_until_first_exit(
                lead(elector, controller, resync, scraper, children),
                *(each.run() for each in children),
            )
        )
        parts.add_done_callback(_end_process)
        probes.started = True
        logger.info("started", extra={"port": bound, "identity": environment.identity})
        return Manager(
            store=store,
            controller=controller,
            resync=resync,
            parts=parts,
            resources=stack.pop_all(),
        )
    raise AssertionError("unreachable: the stack suppresses no exception")


def _end_process(_: asyncio.Task[None]) -> None:
    """Let kopf stop the process."""
    signal.raise_signal(signal.SIGTERM)


async def _wait_for_crd(kube: Kube) -> None:
    """Wait until the API server serves FineTuneJobs.

    kopf looks for the kinds that it watches only once, when it starts to watch.
    """
    logged = ""
    while True:
        try:
            return await kube.require_crd()
        except (Transient, Terminal) as error:
            text = _explained(error, kube)
        if text != logged:
            logger.warning("waiting for the API server: %s", text)
        logged = text
        await asyncio.sleep(RETRY_SECONDS)


def _explained(error: Transient | Terminal, kube: Kube) -> str:
    """Return an error, with the chart value that a NetworkPolicy of the operator may need."""
    if error.__cause__ is None:
        return str(error)
    return (
        f"{error}. If the NetworkPolicy of the operator blocks the connection, extend the chart "
        "value networkPolicy.apiServerPorts with the port on which the API server listens. This "
        f"port can differ from the port of the Service of the API server ({kube.server})"
    )


async def lead(
    elector: LeaderElector,
    controller: Controller,
    resync: Resync,
    scraper: Scraper,
    children: Sequence[Reflector],
) -> None:
    """Run the controller whenever this replica is the leader; at the end release the Lease.

    A replica becomes the leader only after it has listed all kinds. Raises the error that ended a
    worker.
    """
    try:
        for each in children:
            await each.synced.wait()
        while True:
            await elector.acquire()
            scrapes = scraper.run(changed=controller.wake)
            await run_until_first_exit(controller.run(), resync.run(), scrapes, elector.hold())
    finally:
        await controller.stop()
        await elector.release()


async def run_until_first_exit(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Wait for the first part to end, cancel the others, and raise an error that ended any."""
    tasks = [
        part if isinstance(part, asyncio.Task) else asyncio.create_task(part) for part in parts
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
