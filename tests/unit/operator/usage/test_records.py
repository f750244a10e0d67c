"""Accounts as objects: nothing is lost on the way, and planners see the sums."""

from datetime import date
from decimal import Decimal

from finetune_api.crd.openapi import schema_of
from finetune_api.v1alpha1.budgets.usage import FineTuneUsageStatus
from finetune_api.v1alpha1.profile import Price
from finetune_operator.usage import records
from finetune_operator.usage.months import Month, month_of
from finetune_operator.usage.settlement import DAY, Mark, MonthAccount
from finetune_operator.usage.values import DayUse

MONTH = Month(2026, 11)
EUR = Price(per_gpu_hour="2.50", currency="EUR")
USD = Price(per_gpu_hour="4", currency="USD")
FIRST = MONTH.start // DAY
ACCOUNT = MonthAccount(
    month=MONTH,
    days={
        (FIRST, "training", EUR): 5400,
        (FIRST, "training", USD): 3600,
        (FIRST, "serving", None): 900,
        (FIRST + 1, "training", EUR): 7200,
    },
    marks={
        "train/u/r": Mark(job="demo", used=6300, at=MONTH.start, cap=9000, price=EUR),
        "train/u/r/p": Mark(job="demo", used=6300, at=MONTH.start + 7, gpus=1, estimated=True),
        "train/u/old": Mark(job="demo", used=50, at=MONTH.start, cap=60, price=EUR, ended=True),
    },
)


def test_an_account_survives_its_object() -> None:
    found = records.body_of("team-a", MONTH) | {"status": records.status_of(ACCOUNT)}
    assert found["metadata"]["name"] == "team-a-2026-11"
    assert records.parsed(found) == ACCOUNT


def test_the_status_has_the_totals_for_people_and_no_field_that_the_schema_lacks() -> None:
    status = records.status_of(ACCOUNT)
    assert (status["training"], status["serving"]) == ("4.50", "0.25")
    assert status["cost"] == "8.75 EUR, 4.00 USD"
    assert status["days"][0] == {"day": "2026-11-01", "purpose": "serving", "gpuSeconds": 900}
    properties = schema_of(FineTuneUsageStatus)["properties"]
    assert status.keys() <= properties.keys()
    assert all(
        row.keys() <= properties["days"]["items"]["properties"].keys() for row in status["days"]
    )


def test_planners_see_days_open_reservations_and_charged_trainings() -> None:
    view = records.view("team-a", [ACCOUNT])
    assert view.days[date(2026, 11, 1), "training"] == DayUse(
        gpu_seconds=9000, costs={"EUR": Decimal("3.75"), "USD": Decimal(4)}
    )
    (reservation,) = view.reservations.values()
    assert (reservation.key, reservation.namespace, reservation.job) == (
        "train/u/r",
        "team-a",
        "demo",
    )
    assert (reservation.remaining, reservation.remaining_cost) == (2700, Decimal("1.875"))
    assert view.trained == {"train/u/r": 6300, "train/u/old": 50}


def test_months_follow_each_other_over_the_end_of_a_year() -> None:
    assert str(Month(2026, 12).next) == "2027-01"
    assert Month(2027, 1).previous == Month(2026, 12)
    assert month_of(Month(2027, 1).start - 1) == Month(2026, 12)
