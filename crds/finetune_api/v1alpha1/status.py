"""``status`` of a FineTuneJob: the observed state.

Conditions describe the state; the status has no phase. ``revisions`` is the ledger of attempts and
outcomes. It is part of the status because a deleted Job takes its own record with it.
"""

from typing import Literal

from pydantic import Field

from finetune_api.base import StatusModel
from finetune_api.v1alpha1.ledger import Revision


class Condition(StatusModel):
    """A condition as defined by the Kubernetes API conventions."""

    type: str = Field(
        description="Type of the condition: Ready, Succeeded, Reconciling, Stalled, Suspended, "
        "DataReady, Trained, Merged or Serving."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(description="Reason for the status, in CamelCase.")
    message: str = Field(description="Details of the reason and its remediation.")
    observed_generation: int = Field(
        description="Generation of the spec that the condition is based on."
    )
    last_transition_time: str = Field(
        description="Time of the last change of the status.",
        json_schema_extra={"format": "date-time"},
    )


class PreparationProgress(StatusModel):
    """Progress of the current download, read from the metrics of the prepare pod."""

    downloaded_bytes: int | None = Field(None, description="Number of bytes downloaded.")
    total_bytes: int | None = Field(None, description="Total number of bytes to download.")
    progress_percent: int | None = Field(None, description="Percentage of bytes downloaded.")
    eta_seconds: int | None = Field(
        None, description="Estimated remaining time in seconds at the current rate."
    )


class TrainingProgress(StatusModel):
    """Progress of training, read from the metrics of the train pod."""

    attempt: int | None = Field(
        None, description="Number of the latest attempt of the train stage."
    )
    restarts: int | None = Field(None, description="Number of restarts of the train pod.")
    failures: int | None = Field(None, description="Number of restarts after failures.")
    disruptions: int | None = Field(
        None, description="Number of restarts after the node lost a pod or the pod was deleted."
    )
    preemptions: int | None = Field(
        None, description="Number of restarts after the queue evicted the workload."
    )
    global_step: int | None = Field(None, description="Number of completed optimizer steps.")
    max_steps: int | None = Field(None, description="Total number of optimizer steps.")
    progress_percent: int | None = Field(
        None, description="Percentage of optimizer steps completed."
    )
    eta_seconds: int | None = Field(
        None, description="Estimated remaining time in seconds at the current rate."
    )
    loss: str | None = Field(None, description="Training loss at the last logged step.")
    eval_loss: str | None = Field(None, description="Latest loss on the held-out rows.")
    step_seconds: str | None = Field(
        None,
        description="Measured duration of a step in seconds. The grace period of the next pod "
        "depends on it.",
    )
    tokens_per_second: str | None = Field(
        None, description="Training throughput in tokens per second."
    )
    last_checkpoint_step: int | None = Field(None, description="Step of the latest checkpoint.")
    gpu_seconds: int | None = Field(
        None, description="GPU time of training in seconds, summed over all attempts."
    )


class ServingStatus(StatusModel):
    """State of the serving build."""

    revision: str | None = Field(None, description="Revision of the serving build.")
    build: str | None = Field(None, description="Name of the serving build.")
    replicas: int | None = Field(None, description="Number of serving pods.")
    available_replicas: int | None = Field(None, description="Number of available serving pods.")
    selector: str | None = Field(
        None, description="Label selector of the serving pods, for autoscalers."
    )
    model: str | None = Field(None, description="Model name to use in requests.")


class ServingComparison(StatusModel):
    """Comparison of a build with the build that was serving, on the same rows."""

    build: str = Field(description="Build that was serving at the time of the comparison.")
    outcome: Literal["Better", "Worse", "Undecided", "NotComparable"] = Field(
        description='"Better" or "Worse" if the losses differ by more than two standard errors, '
        '"Undecided" if they do not, or "NotComparable" if the builds were not '
        "scored on the same rows against the same base model."
    )
    message: str = Field(description="Measured losses, or the reason why they are missing.")


class EvaluationStatus(StatusModel):
    """Result of the evaluation gate for the target build."""

    outcome: Literal["Passed", "Failed", "NotEvaluated"] = Field(
        description="Whether the held-out loss permits serving the build."
    )
    message: str = Field(description="Measured losses, or the reason why they are missing.")
    against_serving: ServingComparison | None = Field(
        None,
        description="Comparison with the build that the target build replaces. For information "
        "only: it does not affect the gate.",
    )


class VerificationStatus(StatusModel):
    """Result of verifying that the serving build is the trained model."""

    build: str | None = Field(None, description="Build that was verified.")
    pod: str | None = Field(None, description="Serving pod in which the model was verified.")
    outcome: str | None = Field(
        None,
        description='"Verified" (the log-probabilities agree with those of training), '
        '"Inconclusive" (the tuned model and the base model are too similar to '
        'compare; the digests match), or "Skipped" (training recorded no '
        "log-probabilities to compare with; the digests match).",
    )
    distance: str | None = Field(
        None,
        description="RMS difference between the log-probabilities of the serving build and those "
        "recorded in training, in nats.",
    )
    tolerance: str | None = Field(
        None, description="Maximum RMS difference that rounding can explain, in nats."
    )
    seconds: str | None = Field(None, description="Duration of the comparison in seconds.")


class FineTuneJobStatus(StatusModel):
    """Observed state of the job."""

    observed_generation: int = Field(
        -1, description="Generation of the spec that the operator last reconciled."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Conditions of the job. The reason of the Ready condition summarizes the "
        "state of the job.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    revision: str | None = Field(
        None, description="Target revision: the revision that the current spec defines."
    )
    build: str | None = Field(
        None, description="Target build: the build that the current spec defines."
    )
    warnings: list[str] = Field(
        default_factory=list,
        description="Problems that do not prevent the job from running.",
        max_length=32,
    )
    preparation: PreparationProgress = Field(
        PreparationProgress(), description="Progress of data preparation while it runs."
    )
    training: TrainingProgress = Field(TrainingProgress(), description="Progress of training.")
    evaluation: EvaluationStatus | None = Field(
        None, description="Result of the evaluation gate. Set after the model is trained."
    )
    serving: ServingStatus = Field(ServingStatus(), description="State of the serving build.")
    verification: VerificationStatus = Field(
        VerificationStatus(),
        description="Result of verifying that the serving build is the trained model.",
    )
    endpoint: str | None = Field(
        None, description="Base URL of the OpenAI-compatible API inside the cluster."
    )
    ledger_version: int | None = Field(
        None,
        description="Version of the format of status.revisions. An operator that does not "
        "support this version makes no changes.",
    )
    revisions: list[Revision] = Field(
        default_factory=list, description="Ledger of revisions, their attempts and artifacts."
    )
