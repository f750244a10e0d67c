"""Price, limit and expected cost of the training of a revision. Pure."""

from finetune_api.contracts import cost
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.revisions.target import TargetRevision


def price_of(target: TargetRevision) -> Price | None:
    """Return the price that was frozen at the start of a revision, None if it is unknown."""
    profile = target.config.profile
    return None if profile is None else profile.price


def limit_of(target: TargetRevision) -> int | None:
    """Return the GPU-seconds at which training is stopped; None if nothing limits it."""
    policy, price = target.resolved.spec.run_policy, price_of(target)
    limits = [policy.max_gpu_seconds]
    if policy.max_cost is not None and price is not None:
        limits.append(cost.affordable(price.per_gpu_hour, policy.max_cost))
    return min((limit for limit in limits if limit is not None), default=None)


def expected(target: TargetRevision, record: Revision) -> cost.Range | None:
    """Return the GPU time that training is expected to need, None without an estimate.

    That it is stopped once it costs too much is no reason to expect a lower cost.
    """
    seconds = None if record.estimate is None else record.estimate.training_seconds
    if seconds is None:
        return None
    return cost.expected(seconds, target.resolved.spec.run_policy.max_gpu_seconds)
