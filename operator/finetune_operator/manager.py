"""The manager: connects the parts of the operator, starts, supervises and stops them.

``app`` calls ``start`` and ``stop``. If a part ends in between, the manager sends the process the
signal after which kopf stops it, and ``stop`` raises the error of the part: the process ends with
1 and the cause in the log, and the kubelet restarts it.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from finetune_operator import delays, health
from finetune_operator.config import ProcessConfig, Settings
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.controller import Controller
from finetune_operator.controller.followers import BudgetFollowers, ProfileFollowers
from finetune_operator.controller.kind import Observers, Telemetry
from finetune_operator.controller.reconciler import Reconciler
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.running import RunningKind, run_until_first_exit
from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.environment import Environment
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.kube.recorder import Recorder
from finetune_operator.leader_election import LeaderElector
from finetune_operator.metrics_server import server as metrics_server
from finetune_operator.notifications.outbox import Outbox
from finetune_operator.notifications.sink import Sink
from finetune_operator.reconcile import budgets as budget_planner
from finetune_operator.reconcile import plan
from finetune_operator.reconcile import profiles as profile_planner
from finetune_operator.snapshot.budgets import BudgetReader, Budgets
from finetune_operator.snapshot.gpu_usage import GpuUsage
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.profiles import ProfileReader, Profiles
from finetune_operator.snapshot.reader import Reader
from finetune_operator.snapshot.reflector import reflectors
from finetune_operator.snapshot.scraper import NAMESPACE_WORKERS, Scraper
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.surroundings import Surroundings
from finetune_operator.snapshot.watches import BUDGETS, JOBS, PROFILES
from finetune_operator.telemetry.job_metrics import JOB_METRICS
from finetune_operator.telemetry.usage_metrics import USAGE_METRICS
from finetune_operator.types import Key, Snapshot
from finetune_operator.workqueue.workqueue import WorkQueue

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
        live_profiles = LiveReader(kube=kube, store=ObjectStore(PROFILES))
        profiles = Profiles(live=live_profiles)
        store = ObjectStore(JOBS)
        usage = _usage(kube, store, settings) if config.usage.enabled else None
        budgets = Budgets(
            live=LiveReader(kube=kube, store=ObjectStore(BUDGETS)),
            jobs=store,
            usage=None if usage is None else usage.known,
            surroundings=Surroundings(kube=kube),
        )
        jobs = _jobs(kube, executor, config, settings, profiles, budgets, usage, elector)
        running = [
            jobs,
            _profiles(live_profiles, executor, settings, jobs.controller),
            _budgets(budgets, executor, jobs.controller, usage),
        ]
        probes = health.Health(running)
        await stack.enter_async_context(health.serving(probes, environment.probe_port))
        bound = await stack.enter_async_context(
            metrics_server.serving(config.metrics, kube, environment.metrics_port)
        )
        await _wait_for_crds(kube)
        await profiles.list(kube)
        await budgets.list()
        parts = asyncio.create_task(
            run_until_first_exit(
                lead(elector, running),
                *(reflector.run() for kind in running for reflector in kind.reflectors),
            )
        )
        parts.add_done_callback(_end_process)
        probes.started = True
        logger.info("started", extra={"port": bound, "identity": environment.identity})
        return Manager(
            kinds={kind.own: kind for kind in running}, parts=parts, resources=stack.pop_all()
        )
    raise AssertionError("unreachable: the stack suppresses no exception")


def _jobs(
    kube: Kube,
    executor: PlanExecutor,
    config: ProcessConfig,
    settings: Settings,
    profiles: Profiles,
    budgets: Budgets,
    usage: UsageRecorder | None,
    elector: LeaderElector,
) -> RunningKind:
    """Return the parts that reconcile FineTuneJobs, and send the notifications about them."""
    store, namespaces = budgets.jobs, config.watch_namespaces
    scraper = Scraper(WorkQueue("scrapes", namespace_limit=NAMESPACE_WORKERS))
    live = LiveReader(kube=kube, store=store)
    reader = Reader(
        live=live,
        metrics=scraper,
        settings=settings,
        profiles=profiles,
        usage=usage,
        budgets=budgets,
    )
    outboxes: list[Outbox] = []
    if config.sink.url:
        sink = Sink(config.sink, ca_certificates=settings.ca_certificates)
        outboxes.append(Outbox(sink.send, lambda: elector.inherited, store.own_keys))
        elector.note = outboxes[0].note
    observers: tuple[Telemetry[Snapshot], ...] = (JOB_METRICS, *outboxes)
    reconciler = Reconciler(
        store=store,
        reader=reader,
        executor=executor,
        planner=plan,
        telemetry=Observers(observers),
    )
    queue = WorkQueue[Key](JOBS.own.lower(), interval=delays.INTERVAL, burst=delays.BURST)
    controller = Controller(reconciler=reconciler, queue=queue)
    others: list[Callable[[], Coroutine[Any, Any, None]]] = [
        partial(scraper.run, changed=controller.wake)
    ]
    if usage is not None:
        usage.wake = partial(controller.wake, urgent=False)
        others.append(usage.run)
    return RunningKind(
        controller=controller,
        resync=Resync(
            kube=kube, store=store, namespaces=tuple(namespaces), recheck=controller.recheck
        ),
        reflectors=reflectors(kube, store, namespaces, controller.notify),
        others=(*others, *(outbox.run for outbox in outboxes)),
    )


def _usage(kube: Kube, store: ObjectStore, settings: Settings) -> UsageRecorder:
    """Return the recorder of the usage of jobs, whose totals are metrics, too."""
    pods = GpuUsage(
        kube=kube,
        store=store,
        resource=settings.gpu.resource_name,
        clock=kube.transport.clock.now,
    )
    recorder = UsageRecorder(pods=pods)
    USAGE_METRICS.source = recorder.usage
    return recorder


def _profiles(
    live: LiveReader, executor: PlanExecutor, settings: Settings, jobs: Controller[Snapshot]
) -> RunningKind:
    """Return the parts that reconcile FineTuneProfiles, and wake the jobs that use them."""
    followers = ProfileFollowers(jobs=jobs)
    reconciler = Reconciler(
        store=live.store,
        reader=ProfileReader(live=live, settings=settings),
        executor=executor,
        planner=profile_planner,
        telemetry=followers,
    )
    queue = WorkQueue[Key](PROFILES.own.lower(), interval=delays.INTERVAL, burst=delays.BURST)
    controller = Controller(reconciler=reconciler, queue=queue, workers=1)
    return RunningKind(
        controller=controller,
        resync=Resync(kube=live.kube, store=live.store, namespaces=(), recheck=controller.recheck),
        reflectors=(),
        others=(followers.run,),
    )


def _budgets(
    budgets: Budgets,
    executor: PlanExecutor,
    jobs: Controller[Snapshot],
    usage: UsageRecorder | None,
) -> RunningKind:
    """Return the parts that reconcile FineTuneBudgets, and wake the jobs that they limit."""
    followers = BudgetFollowers(jobs=jobs, budgets=budgets)
    if usage is not None:
        usage.gate = budgets.admits
        usage.changed.append(followers.used)
    reconciler = Reconciler(
        store=budgets.live.store,
        reader=BudgetReader(live=budgets.live, budgets=budgets),
        executor=executor,
        planner=budget_planner,
        telemetry=followers,
    )
    queue = WorkQueue[Key](BUDGETS.own.lower(), interval=delays.INTERVAL, burst=delays.BURST)
    followers.own = Controller(reconciler=reconciler, queue=queue, workers=1)
    return RunningKind(
        controller=followers.own,
        resync=Resync(
            kube=budgets.live.kube,
            store=budgets.live.store,
            namespaces=(),
            recheck=followers.own.recheck,
        ),
        reflectors=(),
        others=(followers.run, budgets.run),
    )


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


async def lead(elector: LeaderElector, kinds: Sequence[RunningKind]) -> None:
    """Run the controllers whenever this replica is the leader; at the end release the Lease.

    A replica becomes the leader only after it has listed all kinds. Raises the error that ended a
    worker.
    """
    try:
        for kind in kinds:
            for reflector in kind.reflectors:
                await reflector.synced.wait()
        while True:
            await elector.acquire()
            await run_until_first_exit(*(kind.run() for kind in kinds), elector.hold())
    finally:
        for kind in kinds:
            await kind.controller.stop()
        await elector.release()
