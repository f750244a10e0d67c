"""The serving build of a job, and the result of its verification."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import SHA256, StatusModel
from finetune_api.v1alpha1.endpoints.names import PATH_BELOW_CLAIM, PUBLIC_NAME


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


class SharedModel(StatusModel):
    """The adapter of the job on the volume of a FineTuneEndpoint, which serves it from there."""

    endpoint: str = Field(description="Name of the FineTuneEndpoint.")
    endpoint_uid: str = Field(
        alias="endpointUID", description="UID of the FineTuneEndpoint, whose volume has the files."
    )
    volume: str | None = Field(
        None, description="UID of the PersistentVolumeClaim of the FineTuneEndpoint with the files."
    )
    names: list[Annotated[str, Field(pattern=PUBLIC_NAME)]] = Field(
        min_length=1, max_length=8, description="Model names that clients can use in requests."
    )
    revision: str = Field(
        pattern=SHA256, description="SHA-256 digest (hex) of the revision of the job."
    )
    adapter: str = Field(
        pattern=SHA256, description="SHA-256 digest (hex) of the manifest.json of the adapter."
    )
    reference: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the recorded log-probabilities.",
    )
    template: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the chat template of the job. Absent if the job uses "
        "that of the base model.",
    )
    path: str = Field(
        pattern=PATH_BELOW_CLAIM,
        description="Folder of the files on the volume of the FineTuneEndpoint.",
    )
    attempt: int = Field(
        1,
        ge=1,
        description="Number of the attempt to serve the adapter. The FineTuneEndpoint tries an "
        "adapter that failed again when the number changes.",
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
