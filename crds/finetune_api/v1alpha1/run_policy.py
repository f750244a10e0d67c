"""``spec.runPolicy`` of a FineTuneJob: retries, GPU budget and deadlines."""

from finetune_api.markers import ApiModel, Edit, field


class RunPolicy(ApiModel):
    """Limits for failures, restarts, waiting and GPU time."""

    backoff_limit: int = field(
        "Maximum number of retries after pod failures before a stage fails. Terminal errors, "
        "such as an invalid dataset, are never retried.",
        3,
        edit=Edit.RETRY,
        ge=0,
        le=20,
    )
    max_restarts: int = field(
        "Maximum number of restarts of a stage over all its attempts. It limits restarts after "
        "failures and also after node disruptions, which backoffLimit does not count. If "
        "exceeded, the job fails with reason TooManyRestarts. Suspension and preemption by the "
        "queue do not count.",
        20,
        edit=Edit.RETRY,
        ge=0,
        le=1000,
    )
    max_gpu_seconds: int | None = field(
        "Maximum GPU time of training in seconds, summed over all attempts. If exceeded, the job "
        "fails with reason BudgetExceeded.",
        None,
        edit=Edit.RETRY,
        builtin="unlimited",
        ge=60,
    )
    pending_deadline_seconds: int = field(
        "Number of seconds after which the job becomes Stalled if a pod cannot start until a "
        "user acts, for example because a Secret is missing. The job resumes when the cause is "
        "fixed.",
        600,
        edit=Edit.RETRY,
        ge=30,
    )
