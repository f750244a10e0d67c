"""``spec`` of a FineTuneBudget: how much the jobs of some namespaces may use in a period.

The operator computes it from the usage that it has recorded, never from the jobs that exist. Who
may write a budget decides about the jobs of other people, so tenants have no right to.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import StringConstraints

from finetune_api.base import SHA256
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import LABEL_KEY, Rule, equals, is_set, labels, matches, requires, some_set

BUDGET_KIND = "FineTuneBudget"
BUDGET_PLURAL = "finetunebudgets"
MAX_BUDGET_NAME = 63
MOST_APPROVALS = 200

PeriodName = Literal["Day", "Week", "Month"]
AMOUNT = r"^[0-9]{1,9}(\.[0-9]{1,4})?$"
LabelValue = Annotated[str, StringConstraints(max_length=63)]


def _amount(text: str, **options: object) -> object:
    return field(
        text,
        None,
        edit=Edit.NOTHING,
        max_length=14,
        rules=(
            matches(
                AMOUNT,
                "use a decimal number with at most 4 decimal places, in quotes, such as '500.00'",
            ),
        ),
        **options,  # type: ignore[arg-type]
    )


def _hours(text: str, unset: str) -> object:
    return field(text, None, edit=Edit.NOTHING, unset=unset, ge=0, le=10_000_000)


_needs_values = equals("operator", "In") | equals("operator", "NotIn")


class LabelExpression(ApiModel):
    """A condition on one label, as in a label selector of Kubernetes."""

    key: str = field(
        "Key of the label.",
        edit=Edit.NOTHING,
        max_length=316,
        rules=(matches(LABEL_KEY, "use the key of a label, such as example.com/team"),),
    )
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = field(
        "Relation of the label to the values.", edit=Edit.NOTHING
    )
    values: list[LabelValue] | None = field(
        "Values for the operators In and NotIn.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        min_length=1,
        max_length=32,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        requires(
            _needs_values,
            is_set("values"),
            "the operators In and NotIn compare with values: add at least one to values",
        ),
        requires(
            is_set("values"),
            _needs_values,
            "the operators Exists and DoesNotExist compare with no value: remove values",
        ),
    )


class NamespaceSelector(ApiModel):
    """A label selector of namespaces. An empty one selects all of them."""

    match_labels: dict[str, str] | None = field(
        "Labels that a namespace must have, with their values. Every namespace has the label "
        "kubernetes.io/metadata.name.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=16,
        rules=(labels("matchLabels must hold valid labels of Kubernetes: correct key or value"),),
    )
    match_expressions: list[LabelExpression] | None = field(
        "Further conditions, all of which a namespace must meet.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=16,
    )


class TrainingLimits(ApiModel):
    """What the jobs may spend on training: in a period, and at the same time."""

    gpu_hours: float | None = _hours(  # type: ignore[assignment]
        "GPU time of training in a period, in hours.", "GPU time is not limited"
    )
    cost: str | None = _amount(  # type: ignore[assignment]
        "Cost of training in a period, as a decimal number in quotes. A job costs its GPU time "
        "multiplied by the price of its profile.",
        unset="the cost is not limited",
    )
    max_running: int | None = field(
        "Jobs that may train at the same time.",
        None,
        edit=Edit.NOTHING,
        unset="the number of jobs is not limited",
        ge=0,
        le=100_000,
    )


class ServingLimits(ApiModel):
    """What the endpoints of jobs, and FineTuneEndpoints, may use: in a period, and at once."""

    gpu_hours: float | None = _hours(  # type: ignore[assignment]
        "GPU time of serving pods in a period, in hours.", "GPU time is not limited"
    )
    cost: str | None = _amount(  # type: ignore[assignment]
        "Cost of serving pods in a period, as a decimal number in quotes. The pod of a "
        "FineTuneEndpoint has no price.",
        unset="the cost is not limited",
    )
    max_gpus: int | None = field(
        "GPUs of serving pods at the same time. An endpoint that would exceed them waits. A new "
        "build of an endpoint may exceed them until it has replaced the one that serves.",
        None,
        edit=Edit.NOTHING,
        unset="the number of GPUs is not limited",
        ge=0,
        le=100_000,
    )


class OnExhausted(ApiModel):
    """What happens to running jobs and endpoints when the budget is exhausted."""

    training: Literal["Finish", "Checkpoint"] = field(
        "Finish lets running jobs train to their end. Checkpoint stops them; they resume from "
        "their last checkpoint when the budget has room again.",
        "Finish",
        edit=Edit.NOTHING,
    )
    serving: Literal["Keep", "ScaleToZero"] = field(
        "Keep lets endpoints serve, and starts no further pods. ScaleToZero stops their pods, "
        "which start again in the next period.",
        "Keep",
        edit=Edit.NOTHING,
    )


class ApprovalThreshold(ApiModel):
    """A job above one of these values needs an entry in approvals."""

    gpu_hours: float | None = _hours(  # type: ignore[assignment]
        "GPU time of one training above which a job needs an approval, in hours.",
        "GPU time needs no approval",
    )
    cost: str | None = _amount(  # type: ignore[assignment]
        "Cost of one training above which a job needs an approval, as a decimal number in quotes.",
        unset="cost needs no approval",
    )


class Approval(ApiModel):
    """The approval of one revision of one job."""

    namespace: str = field("Namespace of the job.", edit=Edit.NOTHING, max_length=63)
    name: str = field("Name of the job.", edit=Edit.NOTHING, max_length=63)
    uid: str = field(
        "UID of the job. A job that is created again under the same name has another one.",
        edit=Edit.NOTHING,
        max_length=64,
    )
    revision: str = field(
        "SHA-256 digest of the revision. An edit that trains a new revision needs a new approval.",
        edit=Edit.NOTHING,
        max_length=64,
        rules=(
            matches(
                SHA256,
                "use the complete digest of 64 hex digits that the message of the job contains",
            ),
        ),
    )
    max_gpu_hours: float | None = _hours(  # type: ignore[assignment]
        "Most GPU time that is approved for the whole training, in hours. An approval needs "
        "maxGpuHours, maxCost, or both.",
        "maxCost alone limits the approval",
    )
    max_cost: str | None = _amount(  # type: ignore[assignment]
        "Highest cost that is approved for the whole training, as a decimal number in quotes.",
        unset="maxGpuHours alone limits the approval",
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        requires(
            ~is_set("maxGpuHours"),
            is_set("maxCost"),
            "an approval without a limit would approve every later increase: set maxGpuHours, "
            "maxCost, or both",
        ),
    )


class FineTuneBudgetSpec(ApiModel):
    """The limits of some namespaces."""

    namespace_selector: NamespaceSelector = field(
        "Namespaces of the budget. All of them share it. If several budgets select a namespace, "
        "all of them apply.",
        edit=Edit.NOTHING,
    )
    period: PeriodName = field(
        "Calendar period in UTC, after which the budget starts again. Weeks start on Monday.",
        edit=Edit.NOTHING,
    )
    currency: str | None = field(
        "Currency of all costs in the budget. Only usage with a price in this currency counts.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=3,
        rules=(matches("^[A-Z]{3}$", "use a currency code of three letters, such as EUR"),),
    )
    training: TrainingLimits = field("Limits of training.", edit=Edit.NOTHING)
    serving: ServingLimits = field("Limits of endpoints.", ServingLimits(), edit=Edit.NOTHING)
    on_exhausted: OnExhausted = field(
        "What happens to running jobs and endpoints when the budget is exhausted.",
        OnExhausted(),
        edit=Edit.NOTHING,
    )
    approval_above: ApprovalThreshold = field(
        "Jobs that need an approval.", ApprovalThreshold(), edit=Edit.NOTHING
    )
    approvals: list[Approval] | None = field(
        "Approved revisions of jobs.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        max_length=MOST_APPROVALS,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        requires(
            is_set("training.cost") | is_set("serving.cost") | is_set("approvalAbove.cost"),
            is_set("currency"),
            "training.cost, serving.cost and approvalAbove.cost are amounts of money: set "
            "currency, such as EUR",
        ),
        requires(
            some_set("approvals", "maxCost"),
            is_set("currency"),
            "maxCost in approvals is an amount of money: set currency, such as EUR, or use "
            "maxGpuHours",
        ),
    )
