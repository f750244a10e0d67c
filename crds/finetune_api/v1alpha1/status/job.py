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
from finetune_api.v1alpha1.status.progress import CostStatus, PreparationProgress, TrainingProgress
from finetune_api.v1alpha1.status.serving import ServingStatus, SharedModel, VerificationStatus

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
    profile: str | None = Field(
        None, description="Profile of the revision, also if it was the default one."
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
    shared_model: SharedModel | None = Field(
        None,
        description="The adapter that a FineTuneEndpoint serves, or loads to serve it. Present "
        "from its publication until the job has serving pods of its own, or serves nothing.",
    )
    former_model: SharedModel | None = Field(
        None,
        description="The adapter that another FineTuneEndpoint continues to serve until the one in "
        "sharedModel is verified. Present after a change of serving.endpointRef.",
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
    queue_position: int | None = Field(
        None, description="Place of the train Job while it waits in its LocalQueue, from 1."
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
