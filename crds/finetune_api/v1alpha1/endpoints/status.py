"""``status`` of a FineTuneEndpoint, which only the operator writes and which it trusts."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import SHA256, LedgerModel, StatusModel
from finetune_api.v1alpha1.status.artifacts import MODULE

MOST_MODELS = 512
"""Names in the status. Those beyond are of jobs for which there is no place."""
MOST_FOLDERS = 1024
"""Folders of jobs in the status. A job beyond waits with its adapter until another one is deleted.
"""


class EndpointCondition(StatusModel):
    """A condition as defined by the Kubernetes API conventions."""

    type: str = Field(
        description="Type of the condition: Ready, BaseReady, Serving, Reconciling or Stalled."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        description="Reason for the current status of the condition, as one CamelCase word."
    )
    message: str = Field(
        description="Explanation of the reason. If there is a problem, the message also says how "
        "to fix the problem."
    )
    observed_generation: int = Field(
        description="Generation of the spec from which the operator derived the condition."
    )
    last_transition_time: str = Field(
        description="Time at which the status of the condition last changed.",
        json_schema_extra={"format": "date-time"},
    )


class PreparedBase(LedgerModel):
    """Digests and properties of the base, as the prepare pod of the endpoint reports them."""

    manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the base that vLLM loads.",
    )
    source: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the list of the published files with their digests. "
        "An adapter can be served only if its base has the same one.",
    )
    codes: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the list of the 4-bit weights with their digests. "
        'Absent with base: original. With "dequantized", an adapter can be served only if its '
        "training recorded the same one.",
    )
    commit: str | None = Field(
        None, description="Commit of the repository on the hub, for hf:// sources."
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None, description="Data type of the prepared base."
    )
    bytes: int | None = Field(None, description="Size of the prepared base in bytes.")
    modules: list[Annotated[str, Field(pattern=MODULE)]] | None = Field(
        None,
        max_length=64,
        description="Names of the modules that an adapter may change, without their path.",
    )


class BaseAttempt(LedgerModel):
    """The latest attempt to prepare the base."""

    attempt: int = Field(description="Number of the attempt, starting at 1.")
    outcome: Literal["Running", "Completed", "Failed"] = Field(description="State of the attempt.")
    reason: str | None = Field(None, description="Why the attempt failed, as one CamelCase word.")
    message: str | None = Field(
        None, description="Why the attempt failed, and how to fix the problem."
    )
    retry_key: str | None = Field(
        None,
        description="Hash of the fields of the spec and of the image that the attempt used. If it "
        "changes, the operator repeats a failed attempt.",
    )


class WantedNames(LedgerModel):
    """The signed list of the names that the endpoint must serve."""

    sequence: int = Field(
        description="Number of the list, which increases with every change. The endpoint accepts "
        "no list with a lower number."
    )
    digest: str = Field(
        pattern=SHA256, description="SHA-256 digest (hex) of the names and their adapters."
    )


class ServingPods(LedgerModel):
    """The pods that the operator last rendered."""

    digest: str = Field(
        pattern=SHA256,
        description="SHA-256 digest (hex) of the pod template without the number in sequence.",
    )
    sequence: int = Field(
        description="Number of the list of names at that time. A new pod accepts no lower one."
    )


class JobFolder(LedgerModel):
    """A folder that the volume may have."""

    job: str = Field(description="Name of the FineTuneJob that publishes to the folder.")
    uid: str = Field(
        pattern=r"^[0-9A-Za-z][-0-9A-Za-z]*$",
        description="UID of this job, which is the name of the folder. Another job of the same "
        "name has another UID.",
    )


class EndpointModelStatus(StatusModel):
    """State of one public name, and the verification of the adapter that it answers with."""

    name: str = Field(description="Value of model in requests.")
    job: str = Field(description="Name of the FineTuneJob.")
    revision: str = Field(description="SHA-256 digest (hex) of the revision of the job.")
    adapter: str = Field(
        description="SHA-256 digest (hex) of the manifest.json of the adapter that the name must "
        "answer with."
    )
    attempt: int = Field(
        1, ge=1, description="Number of the attempt of the job to serve this adapter."
    )
    state: str = Field(
        description='"Waiting", "Loading" and "Proving": the adapter is on its way. "Serving": the '
        'name answers with it. "Failed": it was not loaded, or its verification failed. '
        '"EndpointFull": all places for adapters are taken. "NameConflict": another job has the '
        'name, or it is reserved for a base. "Unknown": the pod of the endpoint does not answer.'
    )
    message: str | None = Field(
        None, description="Why the name is in this state, and how to fix a problem."
    )
    answers: str | None = Field(
        None,
        description="Value of the field adapter of the model that answers now. During a rollout, "
        "this is the earlier one. Absent if the name does not answer.",
    )
    outcome: str | None = Field(
        None,
        description='Result of the verification: "Verified", or "Inconclusive" if the endpoint '
        "allows it.",
    )
    distance: str | None = Field(
        None,
        description="Root mean square difference between the log-probabilities of the served model "
        "and those that training recorded, in nats.",
    )
    tolerance: str | None = Field(
        None,
        description="Largest distance that rounding errors can explain, in nats.",
    )
    smallest_fault: str | None = Field(
        None,
        description="Smallest fault that the comparison would detect, as a share of the effect of "
        "tuning.",
    )
    different_blocks: int | None = Field(
        None,
        description="Number of blocks of 64 weights of the base whose scale differs from that of "
        "the training. It may, in the last bits, if the base was quantized on another device.",
    )
    boot: str | None = Field(
        None,
        description="Start of vLLM in which the adapter was verified. After a restart, a name "
        "answers only when its adapter was verified again.",
    )


class FineTuneEndpointStatus(StatusModel):
    """Observed state of the endpoint."""

    observed_generation: int = Field(
        -1, description="Generation of the spec that the operator last reconciled."
    )
    conditions: list[EndpointCondition] = Field(
        default_factory=list,
        description="Ready: the endpoint serves every name that it can serve. BaseReady: the base "
        "is prepared. Serving: the pod answers requests.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    endpoint: str | None = Field(
        None, description="Base URL of the OpenAI-compatible API, inside the cluster."
    )
    summary: str | None = Field(
        None, description="Number of names that answer, and of those that should. Example: 3/4."
    )
    free_slots: int | None = Field(
        None, description="Number of further adapters that the endpoint can serve."
    )
    base: PreparedBase | None = Field(None, description="The prepared base.")
    base_attempt: BaseAttempt | None = Field(
        None, description="The latest attempt to prepare the base."
    )
    volume: str | None = Field(
        None, description="UID of the PersistentVolumeClaim with the base and the adapters."
    )
    folders: list[JobFolder] = Field(
        default_factory=list,
        description="Folders that the volume may have, one for each job that has referred to the "
        "endpoint. A job publishes only to a folder in this list, and the folder of a job that was "
        "deleted leaves the list when it has been removed from the volume.",
    )
    wanted: WantedNames | None = Field(
        None, description="The signed list of the names that the endpoint must serve."
    )
    pods: ServingPods | None = Field(None, description="The pods that the operator last rendered.")
    boot: str | None = Field(
        None, description="The running start of vLLM. Absent while it is down."
    )
    self_test: str | None = Field(
        None,
        description="Result of the comparison of the base with its published weights while an "
        "adapter generates.",
    )
    models: list[EndpointModelStatus] = Field(
        default_factory=list,
        description="State of each public name.",
    )
