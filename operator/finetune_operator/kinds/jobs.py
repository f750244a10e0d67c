"""FineTuneJobs, and all that they own."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from finetune_operator.controller.kind import Observers
from finetune_operator.controller.running import RunningKind
from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.kinds.context import Context
from finetune_operator.notifications.outbox import Outbox
from finetune_operator.reconcile import plan as planner
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.profiles import Profiles
from finetune_operator.snapshot.reader import EndpointLookup, JobReader
from finetune_operator.snapshot.scraping.scraper import NAMESPACE_WORKERS, Scraper
from finetune_operator.telemetry.job_metrics import JOB_METRICS
from finetune_operator.workqueue.workqueue import WorkQueue

Part = Callable[[], Coroutine[Any, Any, None]]


def running(
    context: Context,
    live: LiveReader,
    profiles: Profiles,
    budgets: Budgets,
    endpoint: EndpointLookup,
    usage: UsageRecorder | None,
    outbox: Outbox | None,
) -> RunningKind:
    """Return the parts that reconcile FineTuneJobs, and report about them."""
    scraper = Scraper(WorkQueue("scrapes", namespace_limit=NAMESPACE_WORKERS))
    reader = JobReader(
        live=live,
        metrics=scraper,
        settings=context.settings,
        profiles=profiles,
        usage=usage,
        budgets=budgets,
        endpoint=endpoint,
        queues=context.queues(),
    )
    observers = (JOB_METRICS,) if outbox is None else (JOB_METRICS, outbox)
    namespaces = context.config.watch_namespaces
    controller = context.controller(live.store, reader, planner, Observers(observers))
    others: list[Part] = [partial(scraper.run, changed=controller.wake)]
    if outbox is not None:
        others.append(outbox.run)
    if usage is not None:
        usage.wake = partial(controller.wake, urgent=False)
        others.append(usage.run)
    return RunningKind(
        controller=controller,
        resync=context.resync(controller, tuple(namespaces)),
        others=others,
    )
