"""FineTuneEndpoints, and all that they own."""

from functools import partial

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.endpoint_followers import EndpointFollowers
from finetune_operator.controller.kind import Observers
from finetune_operator.controller.running import RunningKind
from finetune_operator.kinds.context import Context
from finetune_operator.reconcile.endpoints import plan as planner
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.endpoints import AttachedJobs, EndpointReader
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.scraping.gates import Gates
from finetune_operator.telemetry.endpoint_metrics import ENDPOINT_METRICS
from finetune_operator.types import Snapshot

WORKERS = 4
"""There are far fewer endpoints than jobs."""


def running(
    context: Context, live: LiveReader, jobs: Controller[Snapshot], budgets: Budgets
) -> RunningKind:
    """Return the parts that reconcile FineTuneEndpoints, and wake their jobs."""
    attached, gates = AttachedJobs(jobs=jobs.reconciler.store), Gates()
    followers = EndpointFollowers(jobs=jobs, attached=attached, gates=gates)
    reader = EndpointReader(
        live=live, jobs=attached, gates=gates, settings=context.settings, budgets=budgets
    )
    namespaces = context.config.watch_namespaces
    observers = Observers((ENDPOINT_METRICS, followers))
    controller = context.controller(live.store, reader, planner, observers, workers=WORKERS)
    followers.own = controller
    return RunningKind(
        controller=controller,
        resync=context.resync(controller, tuple(namespaces)),
        others=(followers.run, partial(gates.run, changed=controller.wake)),
    )
