"""``spec.runPolicy`` of a FineTuneJob: retries, limits of GPU time and cost, and deadlines."""

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import matches


class RunPolicy(ApiModel):
    """Limits for failures, restarts, waiting, GPU time and cost."""

    backoff_limit: int = field(
        "Maximum number of retries after pod failures within one attempt of a stage. Terminal "
        "errors, such as an invalid dataset, are never retried.",
        3,
        edit=Edit.RETRY,
        ge=0,
        le=20,
    )
    max_restarts: int = field(
        "Maximum number of restarts of a stage, summed over all attempts. The operator counts "
        "restarts after failures and after node disruptions. Restarts after a suspension or after "
        "a preemption by Kueue are not counted. If a stage exceeds the limit, the job fails with "
        "the reason TooManyRestarts.",
        20,
        edit=Edit.RETRY,
        ge=0,
        le=1000,
    )
    max_gpu_seconds: int | None = field(
        "Maximum GPU time of training in seconds, summed over all attempts. If training "
        "reaches the limit, the job fails with the reason BudgetExceeded.",
        None,
        edit=Edit.RETRY,
        builtin="unlimited",
        ge=60,
    )
    max_cost: str | None = field(
        "Maximum cost of training, as a decimal number in quotes, in the currency of the profile, "
        "which must have a price. If training may cost more, the job is rejected before a GPU is "
        "requested (TooExpensive). Training that reaches this cost is stopped (BudgetExceeded).",
        None,
        edit=Edit.RETRY,
        builtin="unlimited",
        max_length=12,
        rules=(
            matches(
                r"^[0-9]{1,8}(\.[0-9]{1,2})?$",
                "use a decimal number with at most 2 decimal places, in quotes, such as '12.50'",
            ),
        ),
    )
    prepare_deadline_seconds: int = field(
        "Maximum duration of an attempt of the prepare stage, in seconds. The duration includes "
        "retries and the time that pods wait for a node. After the maximum duration, the job "
        "fails with the reason DeadlineExceeded.",
        21600,
        edit=Edit.RETRY,
        ge=60,
        le=604800,
    )
    pending_deadline_seconds: int = field(
        "Maximum waiting time of a pod, in seconds. If a pod waits longer because of a problem "
        "that only a user can fix, the condition Stalled becomes True. Example: a missing Secret. "
        "The job continues when the problem is fixed.",
        600,
        edit=Edit.RETRY,
        ge=30,
    )
