"""``spec.placement`` and ``spec.podMetadata`` of a FineTuneJob: scheduling and pod labels."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import (
    LABEL_KEY,
    LABEL_VALUE,
    NONEMPTY_LABEL_VALUE,
    Rule,
    each_matches,
    equals,
    excludes,
    is_set,
    labels,
    matches,
    requires,
)

RESERVED_PREFIXES = ("finetune.dev/", "app.kubernetes.io/", "kueue.x-k8s.io/")
"""Prefixes of labels that the operator sets or that change the behavior of other controllers."""


class Toleration(ApiModel):
    """A toleration, with the fields and meanings of a pod's own tolerations."""

    atomic: ClassVar[bool] = True
    key: str | None = field(
        "Key of the taint to tolerate.",
        None,
        edit=Edit.RETRY,
        builtin="every key",
        max_length=316,
        rules=(
            matches(LABEL_KEY, "write the key of a taint as a label key, such as nvidia.com/gpu"),
        ),
    )
    operator: Literal["Exists", "Equal"] = field(
        'How the taint is matched: "Equal" (the key and the value must match), or "Exists" '
        "(only the key must match).",
        "Equal",
        edit=Edit.RETRY,
    )
    value: str | None = field(
        "Value of the taint to tolerate. Used with operator: Equal.",
        None,
        edit=Edit.RETRY,
        builtin="the empty string",
        max_length=63,
        rules=(
            matches(
                LABEL_VALUE,
                "use at most 63 letters, digits, '-', '_' and '.' in the value of a taint",
            ),
        ),
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = field(
        "Effect of the taint to tolerate.", None, edit=Edit.RETRY, builtin="every effect"
    )
    toleration_seconds: int | None = field(
        "Number of seconds that the pods tolerate a taint with the effect NoExecute.",
        None,
        edit=Edit.RETRY,
        builtin="unlimited",
        ge=0,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        excludes(
            equals("operator", "Exists"),
            is_set("value"),
            "a toleration with operator: Exists has no value: remove value, or set operator: Equal",
        ),
        requires(
            ~is_set("key"),
            equals("operator", "Exists"),
            "a toleration without a key tolerates every taint: set key, or set operator: Exists "
            "to tolerate every taint",
        ),
        requires(
            is_set("tolerationSeconds"),
            equals("effect", "NoExecute"),
            "tolerationSeconds applies only to the effect NoExecute: set effect: NoExecute, or "
            "remove tolerationSeconds",
        ),
    )


class Placement(ApiModel):
    """Scheduling constraints of the job's pods, which share a volume."""

    zones: list[str] | None = field(
        "Zones in which the pods may run. Each entry is a value of the node label "
        "topology.kubernetes.io/zone.",
        None,
        edit=Edit.RETRY,
        builtin="every zone",
        min_length=1,
        max_length=16,
        rules=(
            each_matches(
                NONEMPTY_LABEL_VALUE,
                "write zones as values of the label topology.kubernetes.io/zone, such as "
                "eu-central-1a",
            ),
        ),
    )
    node_selector: dict[str, str] | None = field(
        "The pods with a GPU run only on nodes with these labels. The other pods prefer nodes "
        "with these labels. If this field is set, the chart value gpu.products does not apply to "
        "the job.",
        None,
        edit=Edit.RETRY,
        builtin="the node labels of the GPU models in the chart value gpu.products",
        max_length=16,
        rules=(
            labels(
                "write nodeSelector as labels of nodes, such as nvidia.com/gpu.product: NVIDIA-A10G"
            ),
        ),
    )
    tolerations: list[Toleration] | None = field(
        "Tolerations of the pods, in addition to the tolerations in the chart value "
        "gpu.tolerations.",
        None,
        edit=Edit.RETRY,
        builtin="none",
        max_length=16,
    )


class PodMetadata(ApiModel):
    """Metadata of the job's pods."""

    labels: dict[str, str] | None = field(
        "Labels, such as example.com/cost-center: a-42. The operator adds these labels to the "
        "job's Jobs, Deployments, Services, PersistentVolumeClaims and pods.",
        None,
        edit=Edit.ROLL,
        builtin="none",
        max_length=16,
        rules=(labels("write labels as Kubernetes labels, such as example.com/cost-center: a-42"),),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.labels) || !self.labels.exists(k, "
            + " || ".join(f"k.startsWith('{prefix}')" for prefix in RESERVED_PREFIXES)
            + ")",
            message="labels with the prefixes finetune.dev/, app.kubernetes.io/ and "
            "kueue.x-k8s.io/ are reserved: use another prefix. To choose a Kueue queue, set "
            "spec.queueName",
            fails=lambda metadata: any(
                key.startswith(RESERVED_PREFIXES) for key in metadata.labels or {}
            ),
        ),
    )
