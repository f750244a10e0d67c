"""``status.revisions`` of a FineTuneJob: the ledger of revisions, their attempts and artifacts."""

from typing import Literal

from pydantic import Field

from finetune_api.base import StatusModel


class Attempt(StatusModel):
    """One stage of a revision: its latest attempt and how that ended."""

    stage: Literal["prepare", "train", "merge", "serve"] = Field(description="Name of the stage.")
    build: str | None = Field(None, description="Build that was merged or served.")
    attempt: int = Field(description="Number of the latest attempt, from 1.")
    outcome: Literal["Starting", "Running", "Completed", "Failed", "Stopped"] = Field(
        description="How the latest attempt ended."
    )
    has_run: bool | None = Field(None, description="Whether a pod of this attempt has run.")
    reason: str | None = Field(None, description="The cause of a failure, in one word.")
    message: str | None = Field(None, description="The cause of a failure, with the way out.")
    retry_key: str | None = Field(
        None,
        description="Hash of the fields whose edit gives a failed stage a new attempt.",
    )
    pod: str | None = Field(None, description="uid of the attempt's newest pod.")
    pod_created: str | None = Field(None, description="When that pod was created.")
    failures: int | None = Field(
        None, description="Restarts after a failure, over all attempts at the stage."
    )
    disruptions: int | None = Field(
        None,
        description="Restarts after a pod was lost to its node, or its Job to somebody's hand.",
    )
    preemptions: int | None = Field(
        None, description="Restarts after the queue took the admission back."
    )
    memory: str | None = Field(
        None, description="Memory of the container, where a retry was given more than the spec's."
    )
    merged_dtype: str | None = Field(
        None, description="Number format of the model that the attempt merged."
    )
    base: Literal["dequantized", "original"] | None = Field(
        None, description="Base that the build which the attempt serves runs on."
    )


class EvaluatedBuild(StatusModel):
    """The held-out loss of one of the two models that a merge can make."""

    loss: str = Field(description="Mean loss of a held-out answer token, in nats.")
    difference: str = Field(description="That loss minus the base model's; above 0 is worse.")
    standard_error: str | None = Field(
        None, description="Standard error of the difference, paired by rows."
    )


class Evaluation(StatusModel):
    """The tuned model against its base on rows that were kept from training."""

    rows: int = Field(description="Held-out rows that were scored.")
    tokens: int = Field(description="Answer tokens in them.")
    base_loss: str = Field(description="Mean loss of a token under the base model, in nats.")
    rows_digest: str | None = Field(
        None, description="Digest of the rows' token ids: the same rows can be compared."
    )
    dequantized: EvaluatedBuild = Field(description="With merge.base dequantized.")
    original: EvaluatedBuild = Field(description="With merge.base original.")


class Artifacts(StatusModel):
    """What a revision was made of and what it made, by digest."""

    base_commit: str | None = Field(
        None, description="Commit of the base model, or the digest of its source's list of files."
    )
    base_bytes: int | None = Field(None, description="Size of the base model's files.")
    chat_template: str | None = Field(
        None, description="Digest of the chat template, where it is not the base's own."
    )
    dataset_digest: str | None = Field(None, description="Commit or digest of the dataset.")
    adapter: str | None = Field(None, description="Digest of the adapter's manifest.")
    backend: str | None = Field(None, description="Library that trained, with its version.")
    attention: str | None = Field(None, description="Attention kernel that it was trained with.")
    device: str | None = Field(None, description="Card that it was trained on, or cpu.")
    merged: str | None = Field(None, description="Digest of the merged model's manifest.")
    merged_dtype: str | None = Field(None, description="Number format of the merged model.")
    evaluation: Evaluation | None = Field(
        None, description="The held-out loss, where rows were held out."
    )


class EvaluationData(StatusModel):
    """What staging found in ``evaluation.dataset``."""

    rows: int | None = Field(None, description="Rows that are evaluated on.")
    dropped_rows: int | None = Field(None, description="Rows longer than sequenceLength.")
    truncated_rows: int | None = Field(None, description="Rows cut at sequenceLength.")
    duplicate_rows: int | None = Field(None, description="Rows that repeat an earlier one.")
    trained_rows: int | None = Field(None, description="Rows that are trained on, too.")
    tokens: int | None = Field(None, description="Tokens of the rows.")
    evaluated_tokens: int | None = Field(
        None, description="Those of them that the loss is taken on."
    )
    median_length: int | None = Field(None, description="Tokens of the median row.")
    p95_length: int | None = Field(None, description="Tokens that 95 of 100 rows have at most.")
    longest_row: int | None = Field(
        None, description="Tokens of the longest row, one that was dropped or cut included."
    )


class Data(StatusModel):
    """What staging found in the dataset."""

    rows: int | None = Field(None, description="Rows that are trained on.")
    validation_rows: int | None = Field(
        None, description="Rows that are held out, or those of evaluation.dataset."
    )
    dropped_rows: int | None = Field(None, description="Rows longer than sequenceLength.")
    truncated_rows: int | None = Field(None, description="Rows cut at sequenceLength.")
    duplicate_rows: int | None = Field(None, description="Rows that repeat an earlier one.")
    train_tokens: int | None = Field(None, description="Tokens of the rows that are trained on.")
    trained_tokens: int | None = Field(None, description="Those of them that the loss is taken on.")
    median_length: int | None = Field(None, description="Tokens of the median row.")
    p95_length: int | None = Field(None, description="Tokens that 95 of 100 rows have at most.")
    longest_row: int | None = Field(
        None, description="Tokens of the longest row, one that was dropped or cut included."
    )
    planned_steps: int | None = Field(None, description="Optimizer steps that training will take.")
    evaluation_dataset: EvaluationData | None = Field(
        None, description="What staging found in evaluation.dataset, where one is named."
    )


class Estimate(StatusModel):
    """What staging expects the job to take."""

    card: str | None = Field(None, description="Card that the estimate was held against.")
    micro_batch_size: int | None = Field(None, description="Rows in one forward pass.")
    training_memory: str | None = Field(None, description="GPU memory of training.")
    serving_memory: str | None = Field(None, description="GPU memory of each serving pod.")
    host_memory: str | None = Field(None, description="Host memory of the train pod.")
    volume: str | None = Field(None, description="Disk of the whole job.")
    training_seconds: int | None = Field(None, description="Time of training, very roughly.")


class Revision(StatusModel):
    """One frozen resolution of the spec, and what became of it."""

    revision: str = Field(description="First 8 hex digits of the hash of its training part.")
    stages: list[Attempt] = Field(default_factory=list, description="Its stages, in their order.")
    artifacts: Artifacts = Field(Artifacts(), description="What went in and came out, by digest.")
    data: Data = Field(Data(), description="What staging found in the dataset.")
    estimate: Estimate | None = Field(None, description="What staging expects the job to take.")
    volume: str | None = Field(
        None, description="uid of the volume that holds what its completed stages made."
    )
    gpu_seconds: int | None = Field(
        None, description="GPU-seconds of its training, over all attempts."
    )
    gpu_seconds_lost: int | None = Field(
        None, description="Those of them that were spent on a volume that is gone."
    )
