"""``status.revisions`` of a FineTuneJob: the ledger of revisions, their attempts and artifacts."""

from typing import Literal

from pydantic import Field

from finetune_api.base import StatusModel


class Attempt(StatusModel):
    """A stage of a revision: its latest attempt and the outcome of that attempt."""

    stage: Literal["prepare", "train", "merge", "serve"] = Field(description="Name of the stage.")
    build: str | None = Field(None, description="Build that the attempt merges or serves.")
    attempt: int = Field(description="Number of the latest attempt, starting at 1.")
    outcome: Literal["Starting", "Running", "Completed", "Failed", "Stopped"] = Field(
        description="State of the latest attempt."
    )
    has_run: bool | None = Field(None, description="Whether a pod of this attempt has run.")
    reason: str | None = Field(None, description="Reason of the failure, in CamelCase.")
    message: str | None = Field(None, description="Cause of the failure and its remediation.")
    retry_key: str | None = Field(
        None,
        description="Hash of the fields that affect a retry. If it changes, a failed stage "
        "gets a new attempt.",
    )
    pod: str | None = Field(None, description="UID of the latest pod of the attempt.")
    pod_created: str | None = Field(None, description="Creation time of the latest pod.")
    failures: int | None = Field(
        None, description="Number of restarts after failures, over all attempts of the stage."
    )
    disruptions: int | None = Field(
        None,
        description="Number of restarts after the node lost a pod or the Job was deleted "
        "externally.",
    )
    preemptions: int | None = Field(
        None, description="Number of restarts after the queue evicted the workload."
    )
    memory: str | None = Field(
        None, description="Memory of the container, if the operator increased it for a retry."
    )
    merged_dtype: str | None = Field(None, description="Data type of the merged model.")
    base: Literal["dequantized", "original"] | None = Field(
        None, description="Base weights of the build that the attempt serves."
    )


class EvaluatedBuild(StatusModel):
    """Held-out loss of one of the two models that a merge can produce."""

    loss: str = Field(description="Mean held-out loss per answer token, in nats.")
    difference: str = Field(
        description="Held-out loss minus the held-out loss of the base model. A positive value "
        "is worse."
    )
    standard_error: str | None = Field(
        None, description="Standard error of the difference, with both losses paired by row."
    )


class Evaluation(StatusModel):
    """Evaluation of the tuned model and its base model on held-out rows."""

    rows: int = Field(description="Number of held-out rows that were scored.")
    tokens: int = Field(description="Number of answer tokens in these rows.")
    base_loss: str = Field(description="Mean loss per token of the base model, in nats.")
    rows_digest: str | None = Field(
        None,
        description="Digest of the token IDs of the rows. Evaluations with equal digests are "
        "comparable.",
    )
    dequantized: EvaluatedBuild = Field(description="Result with merge.base: dequantized.")
    original: EvaluatedBuild = Field(description="Result with merge.base: original.")


class Artifacts(StatusModel):
    """Inputs and outputs of a revision, by digest."""

    base_commit: str | None = Field(
        None, description="Commit of the base model, or the digest of its list of files."
    )
    base_bytes: int | None = Field(None, description="Size of the base model's files in bytes.")
    chat_template: str | None = Field(
        None,
        description="Digest of the chat template, if it differs from the chat template of "
        "the base model.",
    )
    dataset_digest: str | None = Field(None, description="Commit or digest of the dataset.")
    adapter: str | None = Field(None, description="Digest of the adapter's manifest.")
    backend: str | None = Field(None, description="Training library and its version.")
    attention: str | None = Field(None, description="Attention kernel used in training.")
    device: str | None = Field(None, description="GPU model used in training, or cpu.")
    merged: str | None = Field(None, description="Digest of the merged model's manifest.")
    merged_dtype: str | None = Field(None, description="Data type of the merged model.")
    evaluation: Evaluation | None = Field(
        None,
        description="Held-out loss of the tuned model and of the base model, if rows were "
        "held out.",
    )


class EvaluationData(StatusModel):
    """Statistics of ``evaluation.dataset``, determined by data preparation."""

    rows: int | None = Field(None, description="Number of rows used for evaluation.")
    dropped_rows: int | None = Field(
        None, description="Number of rows dropped because they exceed sequenceLength."
    )
    truncated_rows: int | None = Field(
        None, description="Number of rows truncated to sequenceLength."
    )
    duplicate_rows: int | None = Field(
        None, description="Number of rows that repeat an earlier row."
    )
    trained_rows: int | None = Field(
        None,
        description="Number of rows that also occur in the training dataset. They make the "
        "held-out loss too low.",
    )
    tokens: int | None = Field(None, description="Number of tokens in the rows.")
    evaluated_tokens: int | None = Field(
        None, description="Number of tokens that contribute to the loss."
    )
    median_length: int | None = Field(None, description="Median row length in tokens.")
    p95_length: int | None = Field(None, description="95th percentile of the row length in tokens.")
    longest_row: int | None = Field(
        None,
        description="Length of the longest row in tokens, including dropped and truncated rows.",
    )


class Data(StatusModel):
    """Statistics of the dataset, determined by data preparation."""

    rows: int | None = Field(None, description="Number of rows used for training.")
    validation_rows: int | None = Field(
        None, description="Number of held-out rows, or of rows in evaluation.dataset if it is set."
    )
    dropped_rows: int | None = Field(
        None, description="Number of rows dropped because they exceed sequenceLength."
    )
    truncated_rows: int | None = Field(
        None, description="Number of rows truncated to sequenceLength."
    )
    duplicate_rows: int | None = Field(
        None, description="Number of rows that repeat an earlier row."
    )
    train_tokens: int | None = Field(
        None, description="Number of tokens in the rows used for training."
    )
    trained_tokens: int | None = Field(
        None, description="Number of training tokens that contribute to the loss."
    )
    median_length: int | None = Field(None, description="Median row length in tokens.")
    p95_length: int | None = Field(None, description="95th percentile of the row length in tokens.")
    longest_row: int | None = Field(
        None,
        description="Length of the longest row in tokens, including dropped and truncated rows.",
    )
    planned_steps: int | None = Field(None, description="Planned number of optimizer steps.")
    evaluation_dataset: EvaluationData | None = Field(
        None, description="Statistics of evaluation.dataset, if it is set."
    )


class Estimate(StatusModel):
    """Estimated resource needs of the job."""

    card: str | None = Field(
        None, description="GPU model whose memory the estimate is compared with."
    )
    micro_batch_size: int | None = Field(None, description="Rows per forward pass.")
    training_memory: str | None = Field(None, description="GPU memory of the train pod.")
    serving_memory: str | None = Field(None, description="GPU memory of each serving pod.")
    host_memory: str | None = Field(None, description="Host memory of the train pod.")
    volume: str | None = Field(None, description="Disk space of the whole job.")
    training_seconds: int | None = Field(
        None, description="Rough estimate of the duration of training in seconds."
    )


class Revision(StatusModel):
    """A frozen spec, and the attempts and artifacts of its stages."""

    revision: str = Field(
        description="Name of the revision: the first 8 hex digits of the hash of the fields that "
        "determine training."
    )
    stages: list[Attempt] = Field(
        default_factory=list, description="Stages of the revision, in order."
    )
    artifacts: Artifacts = Field(
        Artifacts(), description="Inputs and outputs of the revision, by digest."
    )
    data: Data = Field(
        Data(), description="Statistics of the dataset, determined by data preparation."
    )
    estimate: Estimate | None = Field(None, description="Estimated resource needs of the job.")
    volume: str | None = Field(
        None,
        description="UID of the PersistentVolumeClaim with the artifacts of the completed stages.",
    )
    gpu_seconds: int | None = Field(
        None, description="GPU time of training in seconds, summed over all attempts."
    )
    gpu_seconds_lost: int | None = Field(
        None,
        description="GPU time in seconds whose results were lost because a volume was "
        "deleted. Included in gpuSeconds.",
    )
