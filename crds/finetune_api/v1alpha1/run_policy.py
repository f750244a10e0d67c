"""``spec.runPolicy`` of a FineTuneJob: retries, GPU budget and deadlines."""

from finetune_api.markers import ApiModel, Edit, field


class RunPolicy(ApiModel):
    """Limits for failures, restarts, waiting and GPU time."""

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
