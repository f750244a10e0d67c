"""``spec.resources`` of a FineTuneJob: CPU and memory of each stage; and their estimate."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import LedgerModel
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.quantity import Quantity, amount, comparable
from finetune_api.rules import Rule


def _without_gpu(part: Literal["requests", "limits"]) -> Rule:
    return Rule(
        cel=f"!has(self.{part}) || !self.{part}.exists(k, k.endsWith('/gpu'))",
        message="the operator requests one GPU for each train and serving pod: remove the GPU from "
        f"{part}",
        fails=lambda resources: any(key.endswith("/gpu") for key in getattr(resources, part) or {}),
    )


def _request_within_limit(name: str) -> Rule:
    request, limit = f"self.requests['{name}']", f"self.limits['{name}']"
    missing = " || ".join(
        f"!has(self.{part}) || !('{name}' in self.{part})" for part in ("requests", "limits")
    )
    return Rule(
        cel=f"{missing} || !({comparable(request, limit)}) || "
        f"quantity(string({request})).compareTo(quantity(string({limit}))) <= 0",
        message=f"requests.{name} exceeds limits.{name}: lower the request or raise the limit",
        fails=lambda resources: (
            name in (resources.requests or {})
            and name in (resources.limits or {})
            and amount(resources.requests[name]) > amount(resources.limits[name])
        ),
    )


class ResourceRequirements(ApiModel):
    """Requests and limits of the container of a stage. Replaced as a whole if set."""

    atomic: ClassVar[bool] = True
    requests: dict[str, Quantity] | None = field(
        "Minimum resources of the container, such as {cpu: '4', memory: 16Gi}. Do not list the "
        "GPU: the operator requests one GPU per train pod and per serving pod.",
        None,
        edit=Edit.RETRY,
        builtin='the standard requests of the stage, or none if "limits" is set',
        max_length=8,
    )
    limits: dict[str, Quantity] | None = field(
        "Maximum resources of the container, such as {memory: 16Gi}.",
        None,
        edit=Edit.RETRY,
        builtin='the standard limits of the stage, or none if "requests" is set',
        max_length=8,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        _without_gpu("requests"),
        _without_gpu("limits"),
        _request_within_limit("cpu"),
        _request_within_limit("memory"),
    )


OF_PREPARE = ResourceRequirements(requests={"cpu": "1", "memory": "4Gi"}, limits={"memory": "8Gi"})
OF_SERVE = ResourceRequirements(requests={"cpu": "2", "memory": "12Gi"}, limits={"memory": "14Gi"})
"""Defaults of jobs and of endpoints."""


class Resources(ApiModel):
    """CPU, memory and other resources of each stage, except for the GPU."""

    prepare: ResourceRequirements = field(
        "Resources of the prepare pod. This pod downloads the model and prepares the dataset on a "
        "CPU. If this field is set, the default requests and limits do not apply.",
        OF_PREPARE,
        edit=Edit.RETRY,
    )
    train: ResourceRequirements = field(
        "Resources of the train pod, in addition to its GPU. If this field is set, "
        "the default requests and limits do not apply.",
        ResourceRequirements(requests={"cpu": "2", "memory": "12Gi"}, limits={"memory": "14Gi"}),
        edit=Edit.RETRY,
    )
    merge: ResourceRequirements = field(
        "Resources of the merge pod. This pod runs on a CPU. If this field is set, the default "
        "requests and limits do not apply.",
        ResourceRequirements(requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "4Gi"}),
        edit=Edit.RETRY,
    )
    publish: ResourceRequirements | None = field(
        "Resources of the publish pod. This pod uploads the model and runs on a CPU. If this field "
        "is set, the default requests and limits do not apply.",
        None,
        edit=Edit.RETRY,
        builtin="{requests: {cpu: 500m, memory: 512Mi}, limits: {memory: 1Gi}}",
    )
    serve: ResourceRequirements = field(
        "Resources of each serving pod, in addition to its GPU. If this field is set, "
        "the default requests and limits do not apply.",
        OF_SERVE,
        edit=Edit.ROLL,
    )

    def of(self, stage: str) -> ResourceRequirements:
        """Return the resources of a stage by its name."""
        resources: ResourceRequirements | None = getattr(self, stage)
        return resources or OF_PUBLISH


OF_PUBLISH = ResourceRequirements(
    requests={"cpu": "500m", "memory": "512Mi"}, limits={"memory": "1Gi"}
)
"""Default of ``resources.publish``. It is no built-in value: those are in the configuration of each
revision, and a new one would change what gives failed stages another attempt."""


class Estimate(LedgerModel):
    """Estimated resource needs of the job."""

    card: str | None = Field(None, description="GPU model of the estimate.")
    micro_batch_size: int | None = Field(
        None, description="Number of rows per forward pass, as assumed in the estimate."
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Whether training recomputes activations in the backward pass. With an unset "
        "training.advanced.gradientCheckpointing, every attempt follows this value until it runs "
        "out of GPU memory.",
    )
    training_memory: str | None = Field(
        None, description="GPU memory that the train pod needs. Example: 14336Mi."
    )
    serving_memory: str | None = Field(
        None, description="GPU memory that each serving pod needs. Example: 14336Mi."
    )
    host_memory: str | None = Field(
        None, description="Main memory (RAM) that the train pod needs. Example: 8192Mi."
    )
    volume: str | None = Field(
        None, description="Disk space that the volume of the revision needs. Example: 40960Mi."
    )
    training_seconds: int | None = Field(
        None, description="Approximate duration of training, in seconds."
    )


class GPURelease(LedgerModel):
    """The release of the serving pods' GPU for the training of a revision."""

    released_at: str = Field(
        description="Time at which the serving pods released their GPU.",
        json_schema_extra={"format": "date-time"},
    )
    waiting_since: str | None = Field(
        None,
        description="Start of the period in which no train pod is assigned to a node. Present "
        "during this period. If no train pod is assigned to a node within 5 minutes, the serving "
        "pods start again.",
        json_schema_extra={"format": "date-time"},
    )
    ended: str | None = Field(
        None,
        description="Why the release ended, as one CamelCase word. Examples: ReleaseDidNotHelp, "
        "SuspendedByUser. When the release ends, the serving pods start again. Absent until the "
        "release ends.",
    )


class Backend(LedgerModel):
    """Training library of a revision. ``prepare`` selects it once, for all attempts."""

    name: Literal["unsloth", "trl"] = Field(description="Name of the training library.")
    version: str = Field(description="Version of the training library.", max_length=64)
    reason: str = Field(description="Reason why the training library was selected.", max_length=256)
    automatic: Literal["unsloth", "trl"] = Field(
        description='Training library that "auto" selects. If you change the field `backend` in '
        'the spec from "auto" to this value or back, no new revision starts.'
    )
