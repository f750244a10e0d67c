"""``FineTuneProfile``: defaults and limits that a platform team offers by name.

A profile is a layer between the chart value ``defaults`` and the job. A revision freezes the
defaults, the card and the price; the limits are those of the policy, apply in addition to it, and
are read whenever work starts.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from finetune_api import GROUP
from finetune_api.base import CamelModel, StatusModel
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import NONEMPTY_LABEL_VALUE, matches
from finetune_api.v1alpha1.references import object_name

PROFILE_KIND = "FineTuneProfile"
PROFILE_PLURAL = "finetuneprofiles"
DEFAULT_ANNOTATION = f"{GROUP}/is-default-profile"
"""With the value "true", a profile applies to the jobs that name none."""
MAX_PROFILE_NAME = 63

PartialSpec = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def missing_profile(name: str) -> str:
    """Return the message about a profile that a job names, and that does not exist."""
    return (
        f"spec.profile: there is no {PROFILE_KIND} {name}. Set a profile that `kubectl get "
        "finetuneprofiles` lists, or ask your cluster administrator to create this one; the job "
        "then continues."
    )


class NameLimit(ApiModel):
    """Allowed names: those that match a pattern of ``allow``, and no pattern of ``deny``."""

    allow: list[Pattern] | None = field(
        "Regular expressions of the allowed names. An expression must match the whole name.",
        None,
        edit=Edit.NOTHING,
        unset="all names are allowed that deny does not match",
        max_length=16,
    )
    deny: list[Pattern] | None = field(
        "Regular expressions of names that are not allowed. Deny takes precedence over allow.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=16,
    )


def _names(text: str) -> Any:
    return field(text, None, edit=Edit.NOTHING, unset="only the policy of the chart applies")


class ProfileLimits(ApiModel):
    """What jobs with a profile may contain, in addition to the chart value ``policy``."""

    priority_classes: NameLimit | None = _names("PriorityClasses in priorityClassName.")
    workload_priority_classes: NameLimit | None = _names(
        "Kueue WorkloadPriorityClasses in workloadPriorityClassName."
    )
    queues: NameLimit | None = _names("Kueue LocalQueues in queueName.")
    require_queue: bool = field(
        "Require that jobs have a queue. The profile itself can set it.",
        False,
        edit=Edit.NOTHING,
    )
    require_api_key: bool = field(
        "Require that jobs with serving pods of their own set serving.apiKeySecretRef, unless the "
        "defaults of the profile or of the chart set it.",
        False,
        edit=Edit.NOTHING,
    )
    node_selectors: NameLimit | None = _names(
        "Node labels in placement.nodeSelector and serving.placement.nodeSelector, as key=value."
    )
    tolerations: NameLimit | None = _names(
        "Taints in placement.tolerations and serving.placement.tolerations, as key=value, or as "
        "key with the operator Exists. The name of a toleration without a key is empty."
    )
    gpu_stage_resources: NameLimit | None = _names(
        "Resource names in resources.train and resources.serve."
    )
    service_accounts: NameLimit | None = _names("ServiceAccounts in access.serviceAccountName.")
    secrets: NameLimit | None = _names(
        "Secrets in tokenSecretRef, s3.secretRef, oci.secretRef and serving.apiKeySecretRef."
    )
    config_maps: NameLimit | None = _names("ConfigMaps in configmap:// sources and caConfigMapRef.")
    claims: NameLimit | None = _names(
        "PersistentVolumeClaims in pvc:// sources and storage.baseCache."
    )
    sources: NameLimit | None = _names("Complete source of models and datasets.")
    hosts: NameLimit | None = _names(
        "Hosts of https:// and oci:// sources and of their redirects, and of s3.endpoint, in lower "
        "case and without port."
    )
    publish_destinations: NameLimit | None = _names(
        "Places to which jobs may publish models, such as oci://<registry>/<repository>."
    )
    pod_labels: NameLimit | None = _names("Keys in podMetadata.labels.")
    max_replicas: int | None = field(
        "Maximum value of serving.replicas.",
        None,
        edit=Edit.NOTHING,
        unset="only the policy of the chart applies",
        ge=1,
        le=64,
    )
    max_gpu_seconds: int | None = field(
        "Maximum value of runPolicy.maxGpuSeconds. With a limit, each job must set that field, "
        "unless the defaults of the profile or of the chart set it.",
        None,
        edit=Edit.NOTHING,
        unset="only the policy of the chart applies",
        ge=1,
    )
    max_sequence_length: int | None = field(
        "Maximum value of training.sequenceLength.",
        None,
        edit=Edit.NOTHING,
        unset="only the policy of the chart applies",
        ge=1,
    )
    max_idle_seconds: int | None = field(
        "Maximum value of serving.idle.afterSeconds. With a limit, each job must set that field, "
        'unless the defaults of the profile or of the chart set it, or serving.mode is "shared".',
        None,
        edit=Edit.NOTHING,
        unset="only the policy of the chart applies",
        ge=60,
    )


class Price(ApiModel):
    """The price of a GPU."""

    atomic: ClassVar[bool] = True
    per_gpu_hour: str = field(
        "Price of one GPU for one hour, as a decimal number in quotes.",
        edit=Edit.NEXT_REVISION,
        max_length=12,
        rules=(
            matches(
                r"^[0-9]{1,6}(\.[0-9]{1,4})?$",
                "use a decimal number with at most 4 decimal places, in quotes, such as '2.50'",
            ),
        ),
    )
    currency: str = field(
        "Currency of the price.",
        edit=Edit.NEXT_REVISION,
        max_length=3,
        rules=(matches("^[A-Z]{3}$", "use a currency code of three letters, such as EUR"),),
    )


class FineTuneProfileSpec(ApiModel):
    """What a platform team offers under one name."""

    description: str | None = field(
        "One line about the purpose of the profile, for users who choose one.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=256,
    )
    card: str | None = field(
        "GPU product of the nodes, as in the node label nvidia.com/gpu.product. It replaces the "
        "chart value gpu.products for the jobs with this profile.",
        None,
        edit=Edit.NEXT_REVISION,
        unset="the chart value gpu.products applies",
        max_length=63,
        rules=(
            matches(
                NONEMPTY_LABEL_VALUE,
                "use the value of the node label nvidia.com/gpu.product, such as NVIDIA-L4",
            ),
        ),
    )
    queue_name: str | None = object_name(
        "Name of the Kueue LocalQueue of jobs that set no queueName. A LocalQueue with this name "
        "must exist in the namespace of each job.",
        None,
        kind="LocalQueue",
        max_length=63,
        builtin="none",
        edit=Edit.NEXT_REVISION,
    )
    price: Price | None = field(
        "Price of the GPU.",
        None,
        edit=Edit.NEXT_REVISION,
        unset="the price is unknown",
    )
    defaults: PartialSpec | None = field(
        "A partial spec of a FineTuneJob. Its values override the chart value defaults, and the "
        "spec of a job overrides them.",
        None,
        edit=Edit.NEXT_REVISION,
        builtin="none",
    )
    limits: ProfileLimits = field(
        "Limits of the jobs with this profile, in addition to the chart value policy.",
        ProfileLimits(),
        edit=Edit.NOTHING,
    )


class FrozenProfile(CamelModel):
    """What the configuration of a revision records about its profile."""

    name: str
    by_default: bool = False
    """Whether the job named no profile, and this one was the default."""
    card: str | None = None
    price: Price | None = None

    def is_of(self, written: str | None) -> bool:
        """Report whether a job has this profile. written: ``spec.profile``."""
        return self.by_default if written is None else self.name == written


class ProfileCondition(StatusModel):
    """A condition as defined by the Kubernetes API conventions."""

    type: str = Field(description="Type of the condition: Valid.")
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        description="Reason for the current status of the condition, as one CamelCase word."
    )
    message: str = Field(
        description="Explanation of the reason. If there is a problem, the message names the field "
        "and says how to fix the problem."
    )
    observed_generation: int = Field(
        description="Generation of the spec from which the operator derived the condition."
    )
    last_transition_time: str = Field(
        description="Time at which the status of the condition last changed.",
        json_schema_extra={"format": "date-time"},
    )


class FineTuneProfileStatus(StatusModel):
    """Whether jobs can use the profile."""

    observed_generation: int = Field(
        -1, description="Generation of the spec that the operator last checked."
    )
    conditions: list[ProfileCondition] = Field(
        default_factory=list,
        description="Condition Valid: whether new revisions can use the profile.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
