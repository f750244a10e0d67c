"""FineTuneBudgets, and the jobs and endpoints that they limit."""

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.followers import BudgetFollowers
from finetune_operator.controller.running import RunningKind
from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.kinds.context import Context
from finetune_operator.reconcile import budgets as planner
from finetune_operator.snapshot.budgets.budgets import Budgets
from finetune_operator.snapshot.budgets.reader import BudgetReader
from finetune_operator.snapshot.budgets.surroundings import Surroundings
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import BUDGETS
from finetune_operator.types import EndpointSnapshot, Snapshot


def accounts(
    context: Context, jobs: ObjectStore, endpoints: ObjectStore, usage: UsageRecorder | None
) -> Budgets:
    """Return the budgets, on which every job and endpoint depends."""
    return Budgets(
        live=context.live(BUDGETS),
        jobs=jobs,
        endpoints=endpoints,
        usage=None if usage is None else usage.when_loaded,
        surroundings=Surroundings(kube=context.kube),
    )


def running(
    context: Context,
    budgets: Budgets,
    jobs: Controller[Snapshot],
    endpoints: Controller[EndpointSnapshot],
    usage: UsageRecorder | None,
) -> RunningKind:
    """Return the parts that reconcile FineTuneBudgets, and wake what they limit."""
    followers = BudgetFollowers(jobs=jobs, endpoints=endpoints, budgets=budgets)
    if usage is not None:
        usage.gate = budgets.admits
        usage.changed.append(followers.used)
    reader = BudgetReader(live=budgets.live, budgets=budgets)
    controller = context.controller(budgets.live.store, reader, planner, followers, workers=1)
    followers.own = controller
    return RunningKind(
        controller=controller,
        resync=context.resync(controller),
        others=(followers.run, budgets.run),
    )
