"""``spec.runPolicy`` of a FineTuneJob: retries, GPU budget and deadlines."""

from finetune_api.markers import ApiModel, Edit, field


class RunPolicy(ApiModel):
    """Limits for failures, restarts, waiting and GPU time."""

    backoff_limit: int = field(
        "Maximum number of pod failures that are retried before a stage fails. Terminal errors, "
        "such as an invalid dataset, are never retried.",
        3,
        edit=Edit.RETRY,
        ge=0,
        le=20,
    )
    max_restarts: int = field(
        "Maximum number of restarts of a stage over all its attempts, after failures and after "
        "node disruptions, which backoffLimit does not count. Beyond it the job fails with reason "
        "TooManyRestarts. Suspension and preemption by the queue do not count.",
        20,
        edit=Edit.RETRY,
        ge=0,
        le=1000,
    )
    max_gpu_seconds: int | None = field(
        "Maximum GPU time of training in seconds, summed over all attempts. Beyond it the job "
        "fails with reason BudgetExceeded.",
        None,
        edit=Edit.RETRY,
        builtin="unlimited",
        ge=60,
    )
    pending_deadline_seconds: int = field(
        "Seconds that a pod may fail to start for a reason that needs user action, such as a "
        "missing Secret, before the job is Stalled. The job resumes when the cause is fixed.",
        600,
        edit=Edit.RETRY,
        ge=30,
    )
