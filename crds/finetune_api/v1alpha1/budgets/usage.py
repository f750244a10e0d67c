"""``FineTuneUsage``: the GPU time of one namespace in one calendar month (UTC).

The operator alone writes it. It is cluster-scoped and owned by nothing, so neither the deletion of
a job nor that of a namespace resets it. One object has the totals of the days and, as marks, how
much of each source they contain: a write with its resourceVersion charges both or nothing.
"""

from typing import Literal

from pydantic import Field

from finetune_api import GROUP
from finetune_api.base import StatusModel
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import matches

USAGE_KIND = "FineTuneUsage"
USAGE_PLURAL = "finetuneusages"
NAMESPACE_LABEL = f"{GROUP}/namespace"
"""Label of a FineTuneUsage: the namespace whose usage it is."""
MONTH_LABEL = f"{GROUP}/month"
"""Label of a FineTuneUsage: its calendar month."""

Purpose = Literal["training", "serving"]


class FineTuneUsageSpec(ApiModel):
    """Whose usage the object records."""

    namespace: str = field(
        "Namespace of the jobs whose usage the object records.", edit=Edit.NOTHING, max_length=63
    )
    month: str = field(
        "Calendar month (UTC) of the usage. Example: 2026-11.",
        edit=Edit.NOTHING,
        max_length=7,
        rules=(matches("^[0-9]{4}-(0[1-9]|1[0-2])$", "use a month such as 2026-11"),),
    )


class DayUsage(StatusModel):
    """GPU time of one day and purpose at one price."""

    day: str = Field(description="Day (UTC). Example: 2026-11-30.")
    purpose: Purpose = Field(description="What the GPUs were used for: training or serving.")
    gpu_seconds: int = Field(
        description="GPU time in seconds: the number of GPUs, multiplied by the time for which "
        "their pods were assigned to a node."
    )
    price_per_gpu_hour: str | None = Field(
        None, description="Price of one GPU for one hour. Absent if the price is unknown."
    )
    currency: str | None = Field(None, description="Currency of the price.")
    cost: str | None = Field(
        None, description="Cost of the GPU time, as a decimal number with four decimal places."
    )


class UsageMark(StatusModel):
    """What the days contain of one source, so that nothing is charged twice."""

    key: str = Field(
        description="Source of the usage. train/<job uid>/<revision>: the reservation of a "
        "training, and the sum of its pods. train/<job uid>/<revision>/<pod uid> and "
        "serve/<pod uid>: a pod."
    )
    job: str = Field(description="Name of the FineTuneJob, or of the FineTuneEndpoint.")
    used: int = Field(description="GPU time of the source that is charged, in seconds.")
    at: str = Field(
        description="Time up to which the source is charged.",
        json_schema_extra={"format": "date-time"},
    )
    gpus: int | None = Field(None, description="Number of GPUs of the pod. Absent for trainings.")
    cap: int | None = Field(
        None,
        description="GPU time that is reserved for the training, in seconds. Absent for pods, and "
        "if neither runPolicy.maxGpuSeconds nor an estimate limits the training.",
    )
    price_per_gpu_hour: str | None = Field(
        None,
        description="Price of one GPU for one hour, which was fixed when the source was first "
        "charged. Absent if it was unknown.",
    )
    currency: str | None = Field(None, description="Currency of the price.")
    ended: bool | None = Field(
        None,
        description="Whether the source has ended. The reservation of an ended training is free.",
    )
    estimated: bool | None = Field(
        None,
        description="Whether the pod vanished while no operator observed it. It is charged for the "
        "time until its absence was noticed, but at most for what was left of the reservation.",
    )


class FineTuneUsageStatus(StatusModel):
    """The GPU time that is charged to a namespace in a month."""

    training: str | None = Field(
        None, description="GPU-hours of training in the month. Shown in the column TRAINING."
    )
    serving: str | None = Field(
        None, description="GPU-hours of serving in the month. Shown in the column SERVING."
    )
    cost: str | None = Field(
        None, description="Cost of the month, by currency. Shown in the column COST."
    )
    closed: bool | None = Field(
        None,
        description="Whether the month has ended and its usage is final. What continues is in the "
        "object of the next month.",
    )
    days: list[DayUsage] = Field(
        default_factory=list,
        description="GPU time by day, purpose and price.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    marks: list[UsageMark] = Field(
        default_factory=list,
        description="Sources of the GPU time. A mark is removed seven days after its source has "
        "ended, if the source no longer exists.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["key"],
        },
    )
