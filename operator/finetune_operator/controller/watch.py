"""Keeps the store up to date: kopf watches the FineTuneJobs, reflectors watch their objects.

kopf retries while the API server is unavailable, overloaded or broken (``handlers.settings``). It
ends on other failures: the CRD was deleted, a list took too long, a stream contained garbage. It is
then restarted as soon as the API server serves FineTuneJobs, and lists all jobs again. In the
meantime, reconciles continue.

kopf assumes that it owns its event loop, and cancels every task of the loop when it ends. It
therefore runs in a loop of its own, in a thread.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import kopf

from finetune_operator.controller import handlers
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.snapshot.reflector import Notify
from finetune_operator.snapshot.store import ObjectStore, version_of
from finetune_operator.types import Object

RESTART_SECONDS = 1.0

logger = logging.getLogger("finetune_operator.watch")


def deliver(
    store: ObjectStore, notify: Notify, listed: Callable[[], None]
) -> Callable[[str | None, Object], None]:
    """Return the function that stores a FineTuneJob. listed: is called for jobs of a list."""

    def store_job(what: str | None, job: Object) -> None:
        if what is None:
            listed()
        change = store.remove if what == "DELETED" else store.put
        for key in change(job):
            notify(key, FINETUNEJOB, version_of(job), True)

    return store_job


async def run_watch(
    deliver: handlers.Deliver,
    namespaces: list[str],
    *,
    wait_for_crd: Callable[[], Awaitable[None]],
    set_ready: Callable[[bool], None],
) -> None:
    """Watch the FineTuneJobs until cancelled.

    namespaces: empty means all. wait_for_crd: returns once the API server serves FineTuneJobs.
    set_ready: receives whether the watch runs.
    """
    loop = asyncio.get_running_loop()

    def deliver_threadsafe(what: str | None, job: Object) -> None:
        loop.call_soon_threadsafe(deliver, what, job)

    def on_started() -> None:
        loop.call_soon_threadsafe(set_ready, True)

    while True:
        stop = threading.Event()
        try:
            await asyncio.to_thread(_run, deliver_threadsafe, namespaces, stop, on_started)
        except Exception as error:
            logger.warning(
                "the watch of FineTuneJobs ended, restarting: %s", error or type(error).__name__
            )
        finally:
            stop.set()
            set_ready(False)
        await asyncio.sleep(RESTART_SECONDS)
        await wait_for_crd()


def _run(
    deliver: handlers.Deliver,
    namespaces: list[str],
    stop: threading.Event,
    on_started: Callable[[], None],
) -> None:
    asyncio.run(_watch(deliver, namespaces, stop, on_started))


async def _watch(
    deliver: handlers.Deliver,
    namespaces: list[str],
    stop: threading.Event,
    on_started: Callable[[], None],
) -> None:
    """Run kopf in the current loop until ``stop`` is set. Raises the error that ended kopf."""
    started = asyncio.Event()

    async def report_started() -> None:
        await started.wait()
        on_started()

    reporter = asyncio.create_task(report_started())
    try:
        await kopf.operator(
            registry=handlers.registry(deliver),
            settings=handlers.settings(),
            memories=handlers.NoMemory(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=started,
        )
    finally:
        # kopf waits for the flag in a thread of this loop, and the loop waits for that thread.
        stop.set()
        reporter.cancel()
