"""Runs kopf's watches, and restarts kopf when it ends.

kopf retries while the API server is unavailable, overloaded or broken (``handlers.settings``). It
ends on other failures: the CRD was deleted, a list took too long, a stream contained garbage. It is
then restarted as soon as the API server serves FineTuneJobs, and lists all objects again. In the
meantime, reconciles continue on resyncs and scheduled delays.

kopf assumes that it owns its event loop, and cancels every task of the loop when it ends. It
therefore runs in a loop of its own, in a thread.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import kopf

from finetune_operator.controller import handlers
from finetune_operator.types import Key

RESTART_SECONDS = 1.0

logger = logging.getLogger("finetune_operator.watch")


async def run_watches(
    notify: handlers.Notify,
    namespaces: list[str],
    *,
    wait_for_crd: Callable[[], Awaitable[None]],
    set_ready: Callable[[bool], None],
) -> None:
    """Watch until cancelled.

    namespaces: empty means all. wait_for_crd: returns once the API server serves FineTuneJobs.
    set_ready: receives whether the watches run.
    """
    loop = asyncio.get_running_loop()

    def notify_threadsafe(key: Key, kind: str, version: int | None) -> None:
        loop.call_soon_threadsafe(notify, key, kind, version)

    def on_started() -> None:
        loop.call_soon_threadsafe(set_ready, True)

    while True:
        stop = threading.Event()
        try:
            await asyncio.to_thread(_run, notify_threadsafe, namespaces, stop, on_started)
        except Exception as error:
            logger.warning("watches ended, restarting: %s", error or type(error).__name__)
        finally:
            stop.set()
            set_ready(False)
        await asyncio.sleep(RESTART_SECONDS)
        await wait_for_crd()


def _run(
    notify: handlers.Notify,
    namespaces: list[str],
    stop: threading.Event,
    on_started: Callable[[], None],
) -> None:
    asyncio.run(_watch(notify, namespaces, stop, on_started))


async def _watch(
    notify: handlers.Notify,
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
            registry=handlers.registry(notify),
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
