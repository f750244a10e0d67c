"""How far a job is: its download, its training, and the cost of the training."""

from pydantic import Field

from finetune_api.base import StatusModel


class PreparationProgress(StatusModel):
    """Progress of the current download, read from the metrics of the prepare pod."""

    downloaded_bytes: int | None = Field(
        None, description="Number of bytes that the prepare pod has downloaded."
    )
    total_bytes: int | None = Field(
        None, description="Total number of bytes that the prepare pod must download."
    )
    progress_percent: int | None = Field(
        None, description="Downloaded bytes as a percentage of all bytes to download."
    )
    eta_seconds: int | None = Field(
        None,
        description="Estimated remaining time of the download at the current rate, in seconds.",
    )


class TrainingProgress(StatusModel):
    """Progress of training, read from the metrics of the train pod."""

    attempt: int | None = Field(
        None, description="Number of the latest attempt of the train stage."
    )
    restarts: int | None = Field(
        None,
        description="Total number of restarts of the train pod: the sum of failures, "
        "disruptions and preemptions.",
    )
    failures: int | None = Field(
        None, description="Number of restarts of the train pod after a failure."
    )
    disruptions: int | None = Field(
        None,
        description="Number of restarts of the train pod after disruptions. Examples of "
        "disruptions are a lost node, an evicted pod and a deleted Job.",
    )
    preemptions: int | None = Field(
        None, description="Number of restarts of the train pod after Kueue evicted the train Job."
    )
    global_step: int | None = Field(None, description="Number of completed optimizer steps.")
    max_steps: int | None = Field(None, description="Total number of optimizer steps.")
    progress_percent: int | None = Field(
        None, description="Completed optimizer steps as a percentage of all optimizer steps."
    )
    eta_seconds: int | None = Field(
        None, description="Estimated remaining time of training at the current rate, in seconds."
    )
    loss: str | None = Field(
        None, description="Training loss at the latest logged step, in nats per token."
    )
    eval_loss: str | None = Field(
        None, description="Held-out loss at the latest evaluation, in nats per token."
    )
    step_seconds: str | None = Field(
        None,
        description="Measured duration of an optimizer step in seconds. The operator uses this "
        "value to set the termination grace period of the next train pod.",
    )
    tokens_per_second: str | None = Field(
        None, description="Training throughput in tokens per second."
    )
    last_checkpoint_step: int | None = Field(
        None, description="Optimizer step of the latest checkpoint."
    )
    gpu_seconds: int | None = Field(
        None, description="GPU time of training in seconds, summed over all attempts."
    )


class Range(StatusModel):
    """A number that is not known exactly."""

    low: str = Field(description="Lower end, as a decimal number.")
    high: str = Field(description="Upper end, as a decimal number.")


class CostStatus(StatusModel):
    """GPU time and cost of training the target revision."""

    price_per_gpu_hour: str | None = Field(
        None,
        description="Price of one GPU for one hour, which was fixed at the start of the revision. "
        "Absent if the price is unknown.",
    )
    currency: str | None = Field(None, description="Currency of the price and of all amounts.")
    expected_gpu_hours: Range | None = Field(
        None,
        description="GPU-hours that training is expected to need. Present after the stage prepare, "
        "if it estimated the duration.",
    )
    expected_cost: Range | None = Field(None, description="Cost of the expected GPU-hours.")
    gpu_hours: str | None = Field(
        None,
        description="GPU-hours of training so far, summed over all attempts. If the operator "
        "records usage, this includes the time for which a train pod pulled its image.",
    )
    cost: str | None = Field(None, description="Cost of the GPU-hours so far.")
    summary: str | None = Field(
        None,
        description="Cost so far, and the expected cost in parentheses. Example: 0.42 EUR "
        "(0.30-1.40). Shown in the column COST of the command `kubectl get -o wide`.",
    )
