"""kopf's watches, kept up: where kopf gives up, it begins anew.

kopf waits for an API server that is away, busy or broken (``wakeups.settings``), and ends at
anything else: the CRD is gone, a list took too long, a stream was garbage. Then all is listed and
watched anew, as soon as FineTuneJobs are served. The work goes on meanwhile, by resyncs and by the
jobs' own delays.

kopf takes the event loop that it runs in for its own, and cancels every task of it when it ends.
So it gets one of its own, in a thread.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import kopf

from finetune_operator.controller import handlers
from finetune_operator.types import Key

AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


async def keep_watching(
    tell: handlers.Tell,
    namespaces: list[str],
    *,
    served: Callable[[], Awaitable[None]],
    ready: Callable[[bool], None],
) -> None:
    """Watch until cancelled.

    namespaces: none means all. served: waits until the server knows FineTuneJobs. ready: is told
    whether the watches run.
    """
    loop = asyncio.get_running_loop()

    def told(key: Key, kind: str, version: int | None) -> None:
        loop.call_soon_threadsafe(tell, key, kind, version)

    def watching() -> None:
        loop.call_soon_threadsafe(ready, True)

    while True:
        stop = threading.Event()
        try:
            await asyncio.to_thread(_run, told, namespaces, stop, watching)
        except Exception as error:
            logger.warning("the watches ended, they begin anew: %s", error or type(error).__name__)
        finally:
            stop.set()
            ready(False)
        await asyncio.sleep(AGAIN_SECONDS)
        await served()


def _run(
    told: handlers.Tell, namespaces: list[str], stop: threading.Event, watching: Callable[[], None]
) -> None:
    asyncio.run(_watch(told, namespaces, stop, watching))


async def _watch(
    told: handlers.Tell, namespaces: list[str], stop: threading.Event, watching: Callable[[], None]
) -> None:
    """Run kopf until ``stop`` is set, in a loop of its own. Raises what ended it before."""
    started = asyncio.Event()

    async def say() -> None:
        await started.wait()
        watching()

    saying = asyncio.create_task(say())
    try:
        await kopf.operator(
            registry=handlers.registry(told),
            settings=handlers.settings(),
            memories=handlers.Forgetful(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=started,
        )
    finally:
        # A thread of this loop waits for it too, and the loop for that thread.
        stop.set()
        saying.cancel()
