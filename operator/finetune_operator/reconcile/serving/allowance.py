"""The budgets of an endpoint: how many pods it may have. Pure.

In an exhausted budget, an endpoint gets no further pods, and loses those that it has if the budget
says so. GPUs at the same time are granted before pods are created (``Plan.serving_gpus``): another
endpoint may be about to get the last one. Their limit takes no pods from an endpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.budgets.accounts import Accounts
from finetune_operator.budgets.amounts import hours, money
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.objects.endpoint_gpus import gpus
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.serving.state import Replicas
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How many pods a build of an endpoint may have."""

    most: int | None = None
    """None if no budget limits them."""

    cause: Position | None = None
    """The position of a job, or of a FineTuneEndpoint, that may have no pods."""

    grants: bool = False
    """Whether more may be granted."""

    def limited(self, replicas: Replicas) -> Replicas:
        """Return the replicas that a build should have, as far as they are allowed."""
        if self.most is None or replicas.count <= self.most:
            return replicas
        return Replicas(self.most, replicas.warnings)

    def wanted(self, count: int) -> int | None:
        """Return the GPUs that must be granted for a number of pods, None if none must be."""
        lacking = self.grants and self.most is not None and count > self.most
        return count if lacking else None


def decide(accounts: Accounts | None, owner: Object, deployments: Iterable[Object]) -> Allowance:
    """Return how many pods a build of the endpoint may have.

    owner: the FineTuneJob, or the FineTuneEndpoint, that has the Deployments.
    """
    if accounts is None or not accounts.serving:
        return Allowance()
    present = gpus(owner, deployments)
    exhausted = [
        (balance, balance.serving)
        for balance in accounts.serving
        if balance.serving is not None and balance.serving.exhausted
    ]
    if exhausted:
        balance, serving = max(exhausted, key=lambda pair: pair[1].stops)
        most = 0 if serving.stops else present
        return Allowance(most=most, cause=_exhausted(balance, serving))
    limits = [
        f"{balance.serving.max_gpus} ({BUDGET_KIND} {balance.name})"
        for balance in accounts.serving
        if balance.serving is not None and balance.serving.max_gpus is not None
    ]
    if not limits:
        return Allowance()
    most = max(present, accounts.serving_gpus)
    return Allowance(most=most, cause=_full(limits), grants=True)


def _exhausted(balance: Balance, serving: ServingBalance) -> Position:
    used, limit = serving.used, serving.limit
    texts = []
    if limit.gpu_seconds is not None:
        texts.append(f"{hours(used.gpu_seconds)} of {hours(limit.gpu_seconds)} GPU-hours")
    if limit.cost is not None:
        texts.append(f"{money(used.cost)} of {money(limit.cost)} {balance.currency}")
    return Position(
        state="suspended",
        reason=Reason.SERVING_OVER_BUDGET,
        message=f"The endpoint has no pods because {BUDGET_KIND} {balance.name} is exhausted for "
        f"this {balance.period.name.lower()}: endpoints have used {' and '.join(texts)}. It starts "
        f"by itself at {balance.period.end:%Y-%m-%d %H:%M} UTC.",
        requeue_after=min(delays.WAITING, max(1.0, balance.seconds_left)),
    )


def _full(limits: list[str]) -> Position:
    return Position(
        state="suspended",
        reason=Reason.SERVING_OVER_BUDGET,
        message="The endpoint has no pods because others have all GPUs that endpoints may have at "
        f"the same time: {', '.join(limits)}. It starts by itself when one of them is free.",
        requeue_after=delays.BUDGET,
    )
