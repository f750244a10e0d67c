"""The GPUs of endpoints, which budgets limit at the same time. Each serving pod has one."""

from collections.abc import Iterable

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions, naming
from finetune_operator.types import Object


def gpus(owner: Object, deployments: Iterable[Object]) -> int:
    """Return the GPUs of an endpoint: those that it has, or waits to get from the scheduler.

    owner: the FineTuneJob, or the FineTuneEndpoint, that has the Deployments.

    Of two builds, the larger one counts: a new build may exceed a budget until it has replaced the
    other one. A build that has released its GPU to the train pod of its job keeps its place.
    """
    released = conditions.get(owner, "Serving").get("reason") == Reason.GPU_RELEASED
    counts = (
        int(deployment["spec"].get("replicas") or 0)
        for deployment in deployments
        if naming.owned_by(owner, deployment)
    )
    return max(counts, default=0) or int(released)
