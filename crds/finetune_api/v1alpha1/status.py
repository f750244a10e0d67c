"""``status`` of a FineTuneJob: what the operator reports.

Conditions carry the state; there is no phase. ``revisions`` is the ledger: what was attempted and
how it ended, kept here because a deleted child takes its evidence along.
"""

from typing import Literal

from pydantic import Field

from finetune_api.base import StatusModel
from finetune_api.v1alpha1.ledger import Revision


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
