"""``status.revisions`` of a FineTuneJob: the ledger of revisions and their attempts."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import CONTENT_DIGEST, SHA256, LedgerModel
from finetune_api.v1alpha1.data.statistics import Data
from finetune_api.v1alpha1.publishing.publication import Publication
from finetune_api.v1alpha1.resources import Backend, Estimate, GPURelease
from finetune_api.v1alpha1.status.artifacts import Artifacts


class ParentAdapter(LedgerModel):
    """The published adapter of another job, to which training.startFrom.job was resolved."""

    job: str = Field(description="Name of the FineTuneJob that published the adapter.")
    revision: str = Field(description="Name of the revision of that job.")
    revision_digest: str = Field(
        pattern=SHA256,
        description="SHA-256 digest (hex) of that revision, of which its name is a part.",
    )
    source: str = Field(
        description="Place of the adapter: an image by digest, a folder in S3 that is named after "
        "the digest, or a repository on the hub."
    )
    commit: str | None = Field(None, description="Commit of the repository on the hub.")
    endpoint: str | None = Field(None, description="URL of the S3 service, unless it is Amazon S3.")
    region: str | None = Field(None, description="Region of the S3 bucket.")
    digest: str = Field(pattern=CONTENT_DIGEST, description="Digest of the published adapter.")
    manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the published adapter. The "
        "prepare stage rejects any other adapter.",
    )


class FrozenConfiguration(LedgerModel):
    """Configuration that a revision was started with, and digests of the trainer's input.

    The operator trusts no copy outside the status: it compares the copies with these digests.
    """

    digest: str = Field(
        description="SHA-256 digest (hex) of the values that affect the trained weights. The "
        "first 8 digits are the name of the revision."
    )
    job_digest: str = Field(
        description="SHA-256 digest (hex) of job.json in the ConfigMap of the revision. The file "
        "job.json is the input of the trainer."
    )
    operator_digest: str = Field(
        description="SHA-256 digest (hex) of operator.json in the ConfigMap of the revision."
    )
    operator: str = Field(
        description="Content of operator.json: the images, commands and defaults of the revision, "
        "as JSON."
    )
    lora_rank: int | None = Field(
        None, description="Rank of the adapter, which the pods of the endpoint need to load it."
    )
    parent: ParentAdapter | None = Field(
        None,
        description="Adapter to which training.startFrom.job was resolved at the start of the "
        "revision.",
    )


class Attempt(LedgerModel):
    """A stage of a revision: its latest attempt and the outcome of that attempt."""

    stage: Literal["prepare", "train", "merge", "publish", "serve"] = Field(
        description="Name of the stage."
    )
    build: str | None = Field(
        None,
        description="Name of the build that the attempt merges, publishes or serves. Present only "
        "for the stages merge, publish and serve.",
    )
    build_digest: str | None = Field(
        None,
        description="SHA-256 digest (hex) of the values that affect the build. The first 8 digits "
        "are the name of the build.",
    )
    attempt: int = Field(description="Number of the latest attempt of the stage, starting at 1.")
    outcome: Literal["Starting", "Running", "Completed", "Failed", "Stopped"] = Field(
        description="State of the latest attempt."
    )
    has_run: bool | None = Field(None, description="Whether a pod of the latest attempt has run.")
    reason: str | None = Field(
        None, description="Why the latest attempt failed or was stopped, as one CamelCase word."
    )
    message: str | None = Field(
        None, description="Why the latest attempt failed, and how to fix the problem."
    )
    retry_key: str | None = Field(
        None,
        description="Hash of certain fields of the spec. If you change one of these fields, the "
        "hash changes, and the operator retries a failed stage.",
    )
    admitted: list[str] | None = Field(
        None,
        description="Digests of spec values that affect the serving pods. The operator checked "
        "these values against the policy, and the policy allowed them. If one of the values "
        "changes, the operator checks it again. Present only for the stage serve.",
    )
    job: str | None = Field(
        None,
        description="UID of the Job that the operator created for the latest attempt. The "
        "operator does not accept the result of any other Job.",
    )
    started: str | None = Field(
        None,
        description="Start time of the Job of the latest attempt, present once a pod has run.",
        json_schema_extra={"format": "date-time"},
    )
    ended: str | None = Field(
        None,
        description="Time at which the Job of the latest attempt completed or failed.",
        json_schema_extra={"format": "date-time"},
    )
    pod: str | None = Field(None, description="UID of the newest pod of the latest attempt.")
    pod_created: str | None = Field(
        None, description="Creation time of the newest pod of the latest attempt."
    )
    image_id: str | None = Field(
        None,
        alias="imageID",
        description="Image ID of the stage's container, read from the newest pod that has started.",
    )
    failures: int | None = Field(
        None,
        description="Number of restarts of the stage after failures, summed over all attempts.",
    )
    disruptions: int | None = Field(
        None,
        description="Number of restarts of the stage after disruptions, summed over all attempts. "
        "Examples of disruptions are a lost node, an evicted pod and a deleted Job.",
    )
    preemptions: int | None = Field(
        None,
        description="Number of restarts of the stage after Kueue evicted its Job, summed over "
        "all attempts.",
    )
    memory: str | None = Field(
        None,
        description="Memory limit of the merge container. Present if a merge ran out of memory "
        "and the operator doubled the limit.",
    )
    merged_dtype: str | None = Field(None, description="Data type of the merged weights.")
    merged_manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the merged model. The serving "
        "pods reject any other model. Present only for the stage merge.",
    )
    targets: list[str] | None = Field(
        None,
        description="Names of the targets to which the attempt publishes. Present only for the "
        "stage publish.",
    )
    published: list[Annotated[str, Field(pattern=CONTENT_DIGEST)]] | None = Field(
        None,
        description="Digests of contents that were published while spec.publish was changed. "
        "Present only for the stage publish.",
    )
    base: Literal["dequantized", "original"] | None = Field(
        None,
        description='Base weights of the served build. "dequantized": the weights rounded to 4 '
        'bits, as used in training. "original": the weights of the published base model.',
    )
    endpoint: str | None = Field(
        None,
        description="Name of the FineTuneEndpoint that serves the build. Absent if the job has "
        "serving pods of its own.",
    )


class Revision(LedgerModel):
    """A frozen spec, and the attempts and artifacts of its stages."""

    revision: str = Field(
        description="Name of the revision. The name consists of the first 8 hex digits of "
        "frozen.digest."
    )
    frozen: FrozenConfiguration | None = Field(
        None, description="Configuration of the operator at the start of the revision."
    )
    stages: list[Attempt] = Field(
        default_factory=list,
        description="Stages of the revision in order of execution, each with its latest attempt.",
    )
    artifacts: Artifacts = Field(
        Artifacts(), description="Digests and properties of the inputs and outputs of the revision."
    )
    data: Data = Field(
        Data(), description="Statistics of the training dataset, determined by the prepare stage."
    )
    estimate: Estimate | None = Field(None, description="Estimated resource needs of the revision.")
    backend: Backend | None = Field(
        None,
        description="Training library of the revision. The prepare stage selects it.",
    )
    published: list[Publication] | None = Field(
        None,
        description="Outcome of publishing, for each target of spec.publish that was attempted.",
    )
    volume: str | None = Field(
        None,
        description="UID of the PersistentVolumeClaim that holds the artifacts of the "
        "completed stages.",
    )
    untrusted_volume: str | None = Field(
        None,
        description="UID of a PersistentVolumeClaim that was restored or was used by an earlier "
        "FineTuneJob. The prepare stage keeps a downloaded file only if its digest matches the "
        "digest that the source states. The prepare stage deletes all other files on the volume.",
    )
    card: str | None = Field(
        None,
        description="GPU model of the train pod that saved the first checkpoint of the revision. "
        "Later attempts of the train stage run only on this GPU model.",
    )
    gpu_seconds: int | None = Field(
        None, description="GPU time of training in seconds, summed over all attempts."
    )
    gpu_release: GPURelease | None = Field(
        None,
        description="Release of the serving pods' GPU so that the revision can be trained. "
        "With serving.rollout: Auto, there is at most one release per revision.",
    )
    gpu_seconds_lost: int | None = Field(
        None,
        description="GPU time of lost training, in seconds. The results of this training were "
        "lost because a volume was deleted. The field gpuSeconds includes this GPU time.",
    )
    training_started: str | None = Field(
        None,
        description="Start time of the first train pod on the current volume. The operator ignores "
        "reported GPU time that exceeds the time since this start.",
        json_schema_extra={"format": "date-time"},
    )
