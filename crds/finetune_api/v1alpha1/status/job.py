"""``status`` of a FineTuneJob: the observed state.

Conditions describe the state; the status has no phase. ``revisions`` is the ledger of attempts and
outcomes. It is part of the status because a deleted Job takes its own record with it.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import StatusModel
from finetune_api.v1alpha1.evaluation import EvaluationStatus
from finetune_api.v1alpha1.publishing.publication import PublicationError
from finetune_api.v1alpha1.status.ledger import Revision

MOST_PUBLISHED = 100
"""Digests of published contents that a job remembers."""
MAX_WARNING_LENGTH = 1024
"""Length to which the operator shortens a warning: pods and image names can make it longer."""


class Condition(StatusModel):
    """A condition as defined by the Kubernetes API conventions."""

    type: str = Field(
        description="Type of the condition: Ready, Succeeded, Finished, Reconciling, Stalled, "
        "Suspended, DataReady, Trained, Merged, Published or Serving."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        description="Reason for the current status of the condition, as one CamelCase word."
    )
    message: str = Field(
        description="Explanation of the reason. If there is a problem, the message also says how "
        "to fix the problem. A condition that would repeat the message of the Ready condition "
        "refers to the Ready condition instead."
    )
    observed_generation: int = Field(
        description="Generation of the spec from which the operator derived the condition."
    )
    last_transition_time: str = Field(
        description="Time at which the status of the condition last changed.",
        json_schema_extra={"format": "date-time"},
    )


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


class ServingStatus(StatusModel):
    """State of the serving build."""

    revision: str | None = Field(None, description="Name of the revision of the serving build.")
    build: str | None = Field(
        None,
        description="Name of the serving build. A build is a revision with its merge settings "
        "and serving mode.",
    )
    replicas: int | None = Field(None, description="Number of serving pods.")
    available_replicas: int | None = Field(
        None, description="Number of serving pods that are available."
    )
    selector: str | None = Field(
        None, description="Label selector that matches the serving pods, for use by autoscalers."
    )
    model: str | None = Field(None, description="Model name that clients can use in requests.")
    summary: str | None = Field(
        None,
        description="State of the endpoint. A revision name: this revision answers requests. A "
        'revision name with "(old)": this revision answers, but the spec defines another build. '
        '"released": a new build uses the GPU. "starting": new pods load the model. '
        '"waiting": new pods wait for a node. "idle": no requests came. '
        '"stopped": it has no pods. "down": the pods do not answer requests. "-": no build is '
        "served.",
    )
    release_planned_at: str | None = Field(
        None,
        description="Time at which the serving pods will release their GPU. If the pod of the new "
        "build gets another GPU earlier, the serving pods keep their GPU. Present while a pod of "
        "the new build waits for a GPU.",
        json_schema_extra={"format": "date-time"},
    )
    idle_after_seconds: int | None = Field(
        None,
        description="Time in seconds without a request after which the serving pods are stopped. "
        "Unset if they keep running.",
    )
    last_request_at: str | None = Field(
        None,
        description="Time of the last request, accurate to a few minutes. Recorded only with "
        "spec.serving.idle.",
        json_schema_extra={"format": "date-time"},
    )
    idle_since: str | None = Field(
        None,
        description="Time at which the serving pods were stopped because no requests came. Present "
        "until they start again.",
        json_schema_extra={"format": "date-time"},
    )


class VerificationStatus(StatusModel):
    """Result of verifying that the serving build is the trained model."""

    build: str | None = Field(None, description="Name of the build that was verified.")
    pod: str | None = Field(None, description="Name of the serving pod that verified the model.")
    outcome: str | None = Field(
        None,
        description='Result of the verification. "Verified": the log-probabilities of the served '
        'model agree with the log-probabilities that training recorded. "Inconclusive": the file '
        "digests match, but rounding could hide the loss of a tenth of the effect of tuning in "
        "the log-probabilities. "
        '"Skipped": the file digests match, but training recorded no log-probabilities.',
    )
    distance: str | None = Field(
        None,
        description="Root mean square difference between the log-probabilities of the serving "
        "build and the log-probabilities that training recorded, in nats.",
    )
    tolerance: str | None = Field(
        None,
        description='Largest value of the field "distance" that rounding errors can explain, in '
        "nats.",
    )
    smallest_fault: str | None = Field(
        None,
        description="Smallest fault that the comparison would detect, as a share of the effect of "
        'tuning. Example: with "0.04", the verification fails if the served model has less than '
        "0.96 or more than 1.04 of the effect, such as with an adapter at a wrong scale. The field "
        "is unset if the comparison would not detect the base model.",
    )
    seconds: str | None = Field(None, description="Duration of the comparison in seconds.")


class PublishedStatus(StatusModel):
    """State of a target of spec.publish."""

    name: str = Field(description="Name of the target in spec.publish.")
    reference: str | None = Field(
        None,
        description="Address of the published content. Example: "
        "registry.example.com/models/support@sha256:….",
    )
    digest: str | None = Field(None, description="Digest of the published content.")
    time: str | None = Field(
        None,
        description="End of the attempt that published the content, or that failed.",
        json_schema_extra={"format": "date-time"},
    )
    error: PublicationError | None = Field(
        None, description="Why the target does not hold the content of the revision."
    )


class BudgetRequest(StatusModel):
    """What a job that waits for a FineTuneBudget needs."""

    waiting_since: str = Field(
        description="Time since which the job waits.", json_schema_extra={"format": "date-time"}
    )
    revision: str = Field(description="Digest of the revision that waits to be trained.")
    gpu_seconds: int | None = Field(
        None, description="GPU time of training for which the budget must have room, in seconds."
    )
    trained_gpu_seconds: int | None = Field(
        None,
        description="GPU time that earlier attempts have used, in seconds. Approvals count it.",
    )
    per_gpu_hour: str | None = Field(None, description="Price of one GPU for one hour.")
    currency: str | None = Field(None, description="Currency of the price.")
    priority: int | None = Field(None, description="Value of the PriorityClass of the job.")


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
        None,
        description="Name of the revision that the current spec defines (the target revision). "
        "A revision is one version of all values that affect the trained weights.",
    )
    build: str | None = Field(
        None,
        description="Name of the build that the current spec defines (the target build). A "
        "build is a revision with its merge settings and serving mode.",
    )
    progress: str | None = Field(
        None,
        description='Progress of the current stage. Example: "train 57%". Shown in the column '
        "PROGRESS.",
    )
    eta: str | None = Field(
        None,
        description='Estimated remaining time of the current stage. Example: "4m10s". Shown in '
        "the column ETA.",
    )
    summary: str | None = Field(
        None,
        description="Beginning of the message of the Ready condition. Shown in the column "
        "MESSAGE of the command `kubectl get -o wide`.",
    )
    warning_count: int | None = Field(None, description="Number of warnings.")
    warnings: list[Annotated[str, Field(max_length=MAX_WARNING_LENGTH)]] = Field(
        default_factory=list,
        description="Problems that do not prevent the job from running.",
        max_length=32,
    )
    preparation: PreparationProgress = Field(
        PreparationProgress(), description="Progress of the prepare stage while it runs."
    )
    training: TrainingProgress = Field(
        TrainingProgress(), description="Progress of the train stage of the target revision."
    )
    cost: CostStatus | None = Field(
        None,
        description="GPU time and cost of training the target revision. Present if the profile of "
        "the job has a price, or the operator records usage.",
    )
    evaluation: EvaluationStatus | None = Field(
        None,
        description="Comparison of the target build with its base model. Present after training.",
    )
    serving: ServingStatus = Field(
        ServingStatus(),
        description="State of the build that is serving. A build is a revision with its merge "
        "settings and serving mode.",
    )
    verification: VerificationStatus = Field(
        VerificationStatus(),
        description="Result of the verification. The verification checks whether the served model "
        "is the trained model.",
    )
    publish: list[PublishedStatus] = Field(
        default_factory=list,
        description="Targets of spec.publish, with what they hold of the target revision.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    budget: BudgetRequest | None = Field(
        None,
        description="Present while the training waits with the reason OverBudget: what it needs.",
    )
    endpoint: str | None = Field(
        None, description="Base URL of the OpenAI-compatible API inside the cluster."
    )
    volume_owners: list[str] = Field(
        default_factory=list,
        description="UIDs of the FineTuneJobs whose volumes the job uses. Normally, the list "
        "contains only the job's own UID. After a restore from a backup, the list also contains "
        "the job's earlier UID. The operator removes the earlier UID when all volumes belong to "
        "the new UID.",
    )
    published_digests: list[str] = Field(
        default_factory=list,
        max_length=MOST_PUBLISHED,
        description="Digests of the contents that the job has published, the latest last. A tag "
        "or branch of spec.publish moves only from content in this list.",
    )
    ledger_version: int | None = Field(
        None,
        description="Version of the format of status.revisions. An operator that does not "
        "support this version does not change the job.",
    )
    revisions: list[Revision] = Field(
        default_factory=list,
        description="Ledger of revisions, their attempts and artifacts. An attempt is one Job "
        "for a stage of a revision.",
    )
