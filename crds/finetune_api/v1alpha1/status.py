"""``status`` of a FineTuneJob: what the operator reports.

Conditions carry the state; there is no phase. ``revisions`` is the ledger: what was attempted and
how it ended, kept here because a deleted child takes its evidence along.
"""

from typing import Literal

from pydantic import ConfigDict, Field

from finetune_api.base import CamelModel


class StatusModel(CamelModel):
    """A group of status fields; unknown ones (of a newer operator) are left out."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One aspect of the job, in the form of the Kubernetes API conventions."""

    type: str = Field(
        description="Ready, Succeeded, Reconciling, Stalled, Suspended, DataReady, Trained, "
        "Merged or Serving."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="The cause in one CamelCase word.")
    message: str = Field(description="The cause in a sentence, with the way out.")
    observed_generation: int = Field(description="Generation of the spec that this describes.")
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )


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


class PreparationProgress(StatusModel):
    """How far staging is with what it downloads now, read from the stage pod's metrics."""

    downloaded_bytes: int | None = Field(None, description="Bytes that have arrived.")
    total_bytes: int | None = Field(None, description="Bytes in all.")
    progress_percent: int | None = Field(None, description="Bytes that have arrived, in percent.")
    eta_seconds: int | None = Field(None, description="Seconds left, at the present pace.")


class TrainingProgress(StatusModel):
    """How far training is, read from the trainer's metrics."""

    attempt: int | None = Field(None, description="Number of the train Job.")
    restarts: int | None = Field(None, description="Pods that were started again.")
    failures: int | None = Field(None, description="Restarts after a failure.")
    disruptions: int | None = Field(
        None, description="Restarts after a pod was lost to its node, or deleted."
    )
    preemptions: int | None = Field(
        None, description="Restarts after the queue took the admission back."
    )
    global_step: int | None = Field(None, description="Optimizer steps done.")
    max_steps: int | None = Field(None, description="Optimizer steps in all.")
    progress_percent: int | None = Field(None, description="Steps done, in percent.")
    eta_seconds: int | None = Field(None, description="Seconds left, at the present pace.")
    loss: str | None = Field(None, description="Training loss at the last logged step.")
    eval_loss: str | None = Field(None, description="Loss on the held-out rows.")
    step_seconds: str | None = Field(
        None,
        description="Seconds a step, as measured; the next pod's grace period is made of it.",
    )
    tokens_per_second: str | None = Field(None, description="Tokens trained on per second.")
    last_checkpoint_step: int | None = Field(None, description="Step of the newest checkpoint.")
    gpu_seconds: int | None = Field(None, description="GPU-seconds over all attempts.")


class ServingStatus(StatusModel):
    """What answers requests."""

    revision: str | None = Field(None, description="Revision that is served.")
    build: str | None = Field(None, description="Build that is served.")
    replicas: int | None = Field(None, description="Serving pods.")
    available_replicas: int | None = Field(None, description="Serving pods that answer.")
    selector: str | None = Field(None, description="Labels of the serving pods, for autoscalers.")
    model: str | None = Field(None, description="Model name to use in requests.")


class ServingComparison(StatusModel):
    """A build against the one that served when it was evaluated, on the same rows."""

    build: str = Field(description="Build that served.")
    outcome: Literal["Better", "Worse", "Undecided", "NotComparable"] = Field(
        description="Better or Worse by more than two standard errors, Undecided within them, or "
        "NotComparable, where the two were not scored on the same rows against the same base."
    )
    message: str = Field(description="The numbers, or why there are none.")


class EvaluationStatus(StatusModel):
    """What the evaluation says about the build that the spec asks for."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"] = Field(
        description="Whether the build may be served, as far as its held-out loss tells."
    )
    message: str = Field(description="The numbers, or why there are none.")
    against_serving: ServingComparison | None = Field(
        None, description="The build against the one that it is to replace. It decides nothing."
    )


class VerificationStatus(StatusModel):
    """How the build that serves was proved to be the model that was trained."""

    build: str | None = Field(None, description="Build that was verified.")
    pod: str | None = Field(None, description="Serving pod whose numbers these are.")
    outcome: str | None = Field(
        None,
        description="Verified (the numbers agree with training's own), Inconclusive (tuned and "
        "base model are too alike for numbers; the digests decided) or Skipped (nothing was "
        "recorded to compare with; the digests decided).",
    )
    distance: str | None = Field(
        None, description="Distance of the log-probabilities to training's, in nats (rms)."
    )
    tolerance: str | None = Field(
        None, description="What the number formats' rounding may make of it, in nats (rms)."
    )
    seconds: str | None = Field(None, description="Time that the comparison took.")


class FineTuneJobStatus(StatusModel):
    """What the operator last saw and did."""

    observed_generation: int = Field(
        -1, description="Generation of the spec that the operator last acted on."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        description="The state. Ready's reason is the one word to read.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    revision: str | None = Field(None, description="Revision that the spec asks for.")
    build: str | None = Field(None, description="Build that the spec asks for.")
    warnings: list[str] = Field(
        default_factory=list, description="What works, but is worth a look.", max_length=32
    )
    preparation: PreparationProgress = Field(
        PreparationProgress(), description="Progress of data preparation while it runs."
    )
    training: TrainingProgress = Field(TrainingProgress(), description="Progress of training.")
    evaluation: EvaluationStatus | None = Field(
        None, description="The tuned model against its base, once it is trained."
    )
    serving: ServingStatus = Field(ServingStatus(), description="What answers requests.")
    verification: VerificationStatus = Field(
        VerificationStatus(), description="What proves the build that serves."
    )
    endpoint: str | None = Field(
        None, description="Base URL of the OpenAI-compatible API, inside the cluster."
    )
    revisions: list[Revision] = Field(
        default_factory=list, description="The ledger: what was attempted and how it ended."
    )
