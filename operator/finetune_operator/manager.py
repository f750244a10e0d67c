"""The manager: connects the parts of the operator, starts, supervises and stops them.

``app`` calls ``start`` and ``stop``. If a part ends in between, the manager sends the process the
signal after which kopf stops it, and ``stop`` raises the error of the part: the process ends with
1 and the cause in the log, and the kubelet restarts it.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from finetune_operator import health
from finetune_operator.config import ProcessConfig, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.running import RunningKind, run_until_first_exit
from finetune_operator.environment import Environment
from finetune_operator.kinds.build import Kinds, build
from finetune_operator.kinds.context import Context
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.leader_election import LeaderElector
from finetune_operator.metrics_server import server as metrics_server

RETRY_SECONDS = 2.0
"""Between two checks whether the API server serves our own kinds."""

logger = logging.getLogger("finetune_operator")


@dataclass(kw_only=True)
class Manager:
    """The running parts of the operator."""

    kinds: Mapping[str, RunningKind]
    """By our own kinds, which kopf watches."""
    parts: asyncio.Task[None]
    resources: AsyncExitStack
    """Servers and connections, which the parts use until they end."""

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
    """Start all parts once the API server serves our own kinds. Raises OSError and Transient."""
    async with AsyncExitStack() as stack:
        kube = await Kube.connect()
        stack.push_async_callback(kube.close)
        elector = LeaderElector(
            kube=kube,
            namespace=config.operator_namespace,
            name=config.lease_name,
            identity=environment.identity,
        )
        kube.transport.fence = elector.remaining
        recorder = Recorder(kube, instance=environment.identity)
        executor = PlanExecutor(kube=kube, recorder=recorder)
        context = Context(kube=kube, executor=executor, config=config, settings=settings)
        kinds = build(context, elector)
        probes = health.Health(kinds.running, kinds.reflectors)
        await stack.enter_async_context(health.serving(probes, environment.probe_port))
        bound = await stack.enter_async_context(
            metrics_server.serving(config.metrics, kube, environment.metrics_port)
        )
        await _wait_for_crds(kube)
        await kinds.list()
        parts = asyncio.create_task(
            run_until_first_exit(
                lead(elector, kinds),
                *(reflector.run() for reflector in kinds.reflectors),
            )
        )
        parts.add_done_callback(_end_process)
        probes.started = True
        logger.info("started", extra={"port": bound, "identity": environment.identity})
        return Manager(
            kinds={kind.own: kind for kind in kinds.running}, parts=parts, resources=stack.pop_all()
        )
    raise AssertionError("unreachable: the stack suppresses no exception")


def _end_process(_: asyncio.Task[None]) -> None:
    """Let kopf stop the process."""
    signal.raise_signal(signal.SIGTERM)


async def _wait_for_crds(kube: Kube) -> None:
    """Wait until the API server serves our own kinds.

    kopf looks for the kinds that it watches only once, when it starts to watch.
    """
    logged = ""
    while True:
        try:
            return await kube.require_crds()
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


async def lead(elector: LeaderElector, kinds: Kinds) -> None:
    """Run the controllers whenever this replica is the leader; at the end release the Lease.

    A replica becomes the leader only after it has listed all kinds. Raises the error that ended a
    worker.
    """
    try:
        for reflector in kinds.reflectors:
            await reflector.synced.wait()
        while True:
            await elector.acquire()
            await run_until_first_exit(*(kind.run() for kind in kinds.running), elector.hold())
    finally:
        for kind in kinds.running:
            await kind.controller.stop()
        await elector.release()
