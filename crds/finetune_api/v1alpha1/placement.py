"""What the API says of pods in more than one place: where they run, and what is written on them."""

import re
from typing import ClassVar, Literal

from finetune_api.markers import (
    LABEL_KEY,
    LABEL_VALUE,
    ApiModel,
    Edit,
    Rule,
    field,
    labels,
    matches,
)


class Toleration(ApiModel):
    """A taint that the job's pods bear, as in a pod's own tolerations."""

    atomic: ClassVar[bool] = True
    key: str | None = field(
        "Key of the taint.",
        None,
        edit=Edit.RETRY,
        builtin="every key",
        max_length=316,
        rules=(matches(LABEL_KEY, "a taint's key is a label's key, such as nvidia.com/gpu"),),
    )
    operator: Literal["Exists", "Equal"] = field(
        "How the value is compared.", "Equal", edit=Edit.RETRY
    )
    value: str | None = field(
        "Value of the taint, for operator Equal.",
        None,
        edit=Edit.RETRY,
        builtin="the empty value",
        max_length=63,
        rules=(
            matches(
                LABEL_VALUE,
                "a taint's value has letters, digits, '-', '_' and '.' only, at most 63",
            ),
        ),
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = field(
        "Effect of the taint.", None, edit=Edit.RETRY, builtin="every effect"
    )
    toleration_seconds: int | None = field(
        "Seconds that a NoExecute taint is borne.",
        None,
        edit=Edit.RETRY,
        builtin="for ever",
        ge=0,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
            message="operator Exists compares no value: remove value, or use operator Equal",
            fails=lambda t: t.operator == "Exists" and t.value is not None,
        ),
        Rule(
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            message="a toleration without a key tolerates every taint: "
            "write operator: Exists, or name the key",
            fails=lambda t: t.key is None and t.operator != "Exists",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds counts for effect NoExecute only: "
            "set effect: NoExecute, or remove tolerationSeconds",
            fails=lambda t: t.toleration_seconds is not None and t.effect != "NoExecute",
        ),
    )


class Placement(ApiModel):
    """Where the job's pods may run. All pods of a job follow it, since they share a volume."""

    zones: list[str] | None = field(
        "Zones (label topology.kubernetes.io/zone) that the pods may run in.",
        None,
        edit=Edit.RETRY,
        builtin="every zone",
        min_length=1,
        max_length=16,
        rules=(
            Rule(
                cel=f"self.all(zone, zone.matches('{LABEL_VALUE}') && size(zone) > 0)",
                message="zones takes values of the label topology.kubernetes.io/zone, "
                "such as eu-central-1a",
                fails=lambda zones: (
                    not all(zone and re.fullmatch(LABEL_VALUE, zone) for zone in zones)
                ),
            ),
        ),
    )
    node_selector: dict[str, str] | None = field(
        "Labels that a node must have. It replaces the administrator's own selector.",
        None,
        edit=Edit.RETRY,
        builtin="the administrator's, which the chart sets to NVIDIA A10G cards",
        max_length=16,
        rules=(
            labels(
                "nodeSelector takes labels of nodes, such as nvidia.com/gpu.product: NVIDIA-A10G"
            ),
        ),
    )
    tolerations: list[Toleration] | None = field(
        "Taints that the pods bear.", None, edit=Edit.RETRY, builtin="none", max_length=16
    )


class PodMetadata(ApiModel):
    """What is written on the job's pods."""

    labels: dict[str, str] | None = field(
        "Labels for the job's pods and other objects, such as a cost centre.",
        None,
        edit=Edit.ROLL,
        builtin="none",
        max_length=16,
        rules=(labels("labels takes Kubernetes labels, such as example.com/cost-centre: a-42"),),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.labels) || !self.labels.exists(k, k.startsWith('finetune.dev/') "
            "|| k.startsWith('app.kubernetes.io/') || k.startsWith('kueue.x-k8s.io/'))",
            message="labels under finetune.dev/, app.kubernetes.io/ and kueue.x-k8s.io/ are the "
            "operator's: use another prefix, or spec.queueName for Kueue",
            fails=lambda m: any(
                key.startswith(("finetune.dev/", "app.kubernetes.io/", "kueue.x-k8s.io/"))
                for key in m.labels or {}
            ),
        ),
    )
