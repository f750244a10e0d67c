"""``status`` of a FineTuneBudget: the statement of the present period."""

from typing import Literal

from pydantic import Field

from finetune_api.base import StatusModel


class BudgetCondition(StatusModel):
    """A condition as defined by the Kubernetes API conventions."""

    type: str = Field(description="Type of the condition: Valid or Exhausted.")
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        description="Reason for the current status of the condition, as one CamelCase word."
    )
    message: str = Field(description="Explanation of the reason, with the numbers.")
    observed_generation: int = Field(
        description="Generation of the spec from which the operator derived the condition."
    )
    last_transition_time: str = Field(
        description="Time at which the status of the condition last changed.",
        json_schema_extra={"format": "date-time"},
    )


class Account(StatusModel):
    """One quantity of a budget in the present period."""

    limit: str | None = Field(None, description="Limit of the budget. Absent if there is none.")
    used: str = Field("0", description="Used in this period.")
    reserved: str = Field(
        "0",
        description="Reserved for jobs that train, and not used yet. At the end of the period, the "
        "reservation moves to the next one.",
    )
    remaining: str | None = Field(
        None, description="Limit without the used and reserved amounts. Absent without a limit."
    )


class TrainingAccount(StatusModel):
    """The training of a budget in the present period."""

    gpu_hours: Account = Field(Account(), description="GPU time in hours.")
    cost: Account | None = Field(
        None, description="Cost in the currency of the budget. Absent without a currency."
    )
    running: int = Field(0, description="Number of jobs with a reservation.")
    waiting: int = Field(0, description="Number of jobs that wait for the budget.")


class FineTuneBudgetStatus(StatusModel):
    """The statement of a budget."""

    observed_generation: int = Field(
        -1, description="Generation of the spec that the operator last checked."
    )
    period_start: str | None = Field(
        None,
        description="Start of the present period.",
        json_schema_extra={"format": "date-time"},
    )
    period_end: str | None = Field(
        None,
        description="End of the present period, at which used amounts become 0.",
        json_schema_extra={"format": "date-time"},
    )
    training: TrainingAccount = Field(
        TrainingAccount(), description="Limits, used, reserved and remaining amounts of training."
    )
    namespaces: list[str] = Field(
        default_factory=list,
        description="Namespaces whose usage counts in this period. A deleted namespace stays in "
        "the list until the period ends.",
    )
    conditions: list[BudgetCondition] = Field(
        default_factory=list,
        description="Conditions Valid and Exhausted. The reason of Exhausted becomes NearLimit at "
        "80 % of a limit.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
