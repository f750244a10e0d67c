"""``spec.runPolicy`` of a FineTuneJob: retries, budget and deadlines."""

from finetune_api.markers import ApiModel, Edit, field


class RunPolicy(ApiModel):
    """How much failure and how much GPU time a job may take."""

    backoff_limit: int = field(
        "Failures of a stage's pod that are retried before the stage fails. A failure that no "
        "retry can mend, such as a broken dataset, is never retried.",
        3,
        edit=Edit.RETRY,
        ge=0,
        le=20,
    )
    max_restarts: int = field(
        "How often a stage may be started again, over all its attempts: after failures, and after "
        "disruptions of its node, which backoffLimit does not count. Past it the job fails with "
        "TooManyRestarts. Pauses and preemptions by the queue are free.",
        20,
        edit=Edit.RETRY,
        ge=0,
        le=1000,
    )
    max_gpu_seconds: int | None = field(
        "GPU-seconds that training may take over all attempts; past it the job fails with "
        "BudgetExceeded.",
        None,
        edit=Edit.RETRY,
        builtin="no limit",
        ge=60,
    )
    pending_deadline_seconds: int = field(
        "Seconds that a pod may be kept from starting by something a person must mend, such as a "
        "missing Secret, before the job is Stalled. It recovers by itself once that is mended.",
        600,
        edit=Edit.RETRY,
        ge=30,
    )
