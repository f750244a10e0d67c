"""Which jobs may start: amounts, order, overtaking, approvals, and jobs that never fit."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from finetune_api.v1alpha1.budgets.spec import Approval
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.budgets.admission import Request, Verdict, decide
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance
from finetune_operator.budgets.periods import containing

NOW = datetime(2026, 11, 12, 8, tzinfo=UTC)
BEFORE = datetime(2026, 10, 30, tzinfo=UTC)
HOUR = 3600
EUROS = Price(per_gpu_hour="2.00", currency="EUR")
DIGEST = "a" * 64


def budget(name: str = "team", **changes: Any) -> Balance:
    """Return a budget of 10 GPU-hours a month."""
    values: dict[str, Any] = {
        "period": containing("Month", NOW),
        "now": NOW,
        "limit": Bound(gpu_seconds=10 * HOUR),
        **changes,
    }
    return Balance(name=name, **values)


def job(name: str = "mine", hours: float | None = 4, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "uid": f"uid-of-{name}",
        "created": "2026-11-10T00:00:00Z",
        "budgets": frozenset({"team"}),
        **changes,
    }
    seconds = None if hours is None else int(hours * HOUR)
    return Request(namespace="team-a", name=name, revision=DIGEST, gpu_seconds=seconds, **values)


def verdict(request: Request, *balances: Balance, others: tuple[Request, ...] = ()) -> Verdict:
    return decide(request, {each.name: each for each in balances}, others)


def older(name: str, hours: float, **changes: Any) -> Request:
    return job(name, hours, created="2026-11-01T00:00:00Z", waiting_since=NOW, **changes)


def test_a_job_starts_if_the_rest_of_the_period_is_enough() -> None:
    used = Amount(gpu_seconds=4 * HOUR)
    reserved = Amount(gpu_seconds=2 * HOUR)
    assert verdict(job(hours=4), budget(used=used, reserved=reserved)).admitted
    found = verdict(job(hours=4.01), budget(used=used, reserved=reserved))
    assert found.reason == Reason.OVER_BUDGET
    assert found.until == datetime(2026, 12, 1, tzinfo=UTC)
    assert found.message == (
        "The job needs 4.01 GPU-hours. FineTuneBudget team has 10 GPU-hours for this month: used "
        "4 GPU-hours, reserved 2 GPU-hours. The job starts by itself, at the latest about "
        "2026-12-01 00:00 UTC."
    )


def test_without_a_budget_every_job_starts() -> None:
    assert verdict(job(hours=None, budgets=frozenset())).admitted
    # The budget was deleted a moment ago.
    assert verdict(job(hours=None)).admitted


def test_all_budgets_that_select_the_namespace_apply() -> None:
    both = job(budgets=frozenset({"team", "company"}))
    assert verdict(both, budget(), budget("company")).admitted
    full = budget("company", used=Amount(gpu_seconds=9 * HOUR))
    found = verdict(both, budget(), full)
    assert found.reason == Reason.OVER_BUDGET
    assert "FineTuneBudget company" in found.message


def test_money_is_limited_as_time_is() -> None:
    euros = budget(limit=Bound(cost=Decimal(10)), currency="EUR")
    assert verdict(job(hours=5, price=EUROS), euros).admitted
    spent = replace(euros, used=Amount(cost=Decimal("0.01")))
    found = verdict(job(hours=5, price=EUROS), spent)
    assert found.reason == Reason.OVER_BUDGET
    assert "The job needs 5 GPU-hours (10.00 EUR). FineTuneBudget team has 10.00 EUR" in (
        found.message
    )


def test_a_job_above_the_whole_budget_never_waits() -> None:
    found = verdict(job(hours=10.5), budget())
    assert found.reason == Reason.EXCEEDS_BUDGET
    assert "needs 10.5 GPU-hours" in found.message
    assert "only 10 GPU-hours for each month" in found.message
    assert "spec.runPolicy.maxGpuSeconds" in found.message


def test_without_an_estimate_the_job_must_limit_itself() -> None:
    found = verdict(job(hours=None), budget())
    assert found.reason == Reason.COST_UNKNOWN
    assert "Set spec.runPolicy.maxGpuSeconds" in found.message


@pytest.mark.parametrize("price", [None, Price(per_gpu_hour="2.00", currency="USD")])
def test_without_a_price_in_its_currency_a_budget_of_money_lets_no_job_start(
    price: Price | None,
) -> None:
    found = verdict(job(price=price), budget(limit=Bound(cost=Decimal(10)), currency="EUR"))
    assert found.reason == Reason.COST_UNKNOWN
    assert "a profile with a price in EUR" in found.message


def test_the_number_of_running_jobs_is_limited() -> None:
    assert verdict(job(), budget(max_running=2, running=1)).admitted
    found = verdict(job(), budget(max_running=2, running=2))
    assert found.reason == Reason.OVER_BUDGET
    assert "lets 2 jobs train at the same time" in found.message


def test_priority_comes_before_age() -> None:
    left = budget(used=Amount(gpu_seconds=5 * HOUR))
    assert verdict(job(), left, others=(older("first", 4),)).reason == Reason.OVER_BUDGET
    assert verdict(job(priority=1), left, others=(older("first", 4),)).admitted
    assert verdict(job(), left, others=(older("first", 4, priority=-1),)).admitted


def test_a_job_that_fits_keeps_its_place_until_it_starts() -> None:
    assert verdict(job(hours=6), budget(), others=(older("first", 4),)).admitted
    assert not verdict(job(hours=6.5), budget(), others=(older("first", 4),)).admitted
    elsewhere = older("elsewhere", 4, budgets=frozenset({"other"}))
    assert verdict(job(hours=6.5), budget(), budget("other"), others=(elsewhere,)).admitted


def test_a_smaller_job_overtakes_for_the_period_in_which_the_larger_one_began_to_wait() -> None:
    left = budget(used=Amount(gpu_seconds=7 * HOUR))
    assert verdict(job(hours=2), left, others=(older("large", 8),)).admitted
    waited = replace(older("large", 8), waiting_since=BEFORE)
    found = verdict(job(hours=2), left, others=(waited,))
    assert found.reason == Reason.OVER_BUDGET
    assert "FineTuneJob large in namespace team-a has waited since the period before" in (
        found.message
    )


def test_a_job_that_can_never_start_blocks_nobody() -> None:
    hopeless = replace(older("hopeless", 11), waiting_since=BEFORE)
    assert verdict(job(), budget(), others=(hopeless,)).admitted


def test_a_job_that_waits_for_another_budget_blocks_only_that_one_for_its_first_period() -> None:
    full = budget("company", used=Amount(gpu_seconds=10 * HOUR))
    both = older("both", 4, budgets=frozenset({"team", "company"}))
    assert verdict(job(hours=10), budget(), full, others=(both,)).admitted


def test_the_forecast_counts_the_jobs_ahead() -> None:
    full = budget(used=Amount(gpu_seconds=10 * HOUR))
    queue = (older("a", 8), older("b", 8))
    assert verdict(job(hours=2), full, others=queue).until == datetime(2027, 1, 1, tzinfo=UTC)
    assert verdict(job(hours=3), full, others=queue).until == datetime(2027, 2, 1, tzinfo=UTC)


def test_behind_a_long_queue_there_is_no_forecast() -> None:
    full = budget(used=Amount(gpu_seconds=10 * HOUR))
    queue = tuple(older(f"job-{number}", 1) for number in range(101))
    assert verdict(job(), full, others=queue[:100]).until is not None
    found = verdict(job(), full, others=queue)
    assert found.reason == Reason.OVER_BUDGET
    assert found.message.endswith("Jobs that start before it: 101. The job starts by itself.")


def test_a_reservation_larger_than_the_shrunken_budget_delays_but_ends_the_forecast() -> None:
    shrunken = budget(reserved=Amount(gpu_seconds=50 * HOUR))
    assert verdict(job(), shrunken).until == datetime(2027, 1, 1, tzinfo=UTC)


APPROVAL = Approval(
    namespace="team-a", name="mine", uid="uid-of-mine", revision=DIGEST, max_gpu_hours=4
)


@pytest.mark.parametrize(
    ("change", "approved"),
    [
        ({}, True),
        ({"uid": "uid-of-its-predecessor"}, False),
        ({"revision": "b" * 64}, False),
        ({"namespace": "team-b"}, False),
        ({"name": "other"}, False),
        ({"max_gpu_hours": 3.99}, False),
        ({"max_cost": "8.00"}, True),
        ({"max_cost": "7.99"}, False),
        ({"max_cost": "8.00", "max_gpu_hours": None}, True),
        ({"max_cost": "8.00", "max_gpu_hours": 3.99}, False),
    ],
)
def test_an_approval_is_for_one_revision_of_one_job(change: Any, approved: bool) -> None:
    """Security: the approval of another job, of an earlier one of the name, or before an edit."""
    approval = APPROVAL.model_copy(update=change)
    above = budget(approval_above=Bound(gpu_seconds=HOUR), approvals=(approval,), currency="EUR")
    found = verdict(job(price=EUROS), above)
    assert found.admitted is approved
    if not approved:
        assert found.reason == Reason.APPROVAL_NEEDED
        assert (
            f"{{namespace: team-a, name: mine, uid: uid-of-mine, revision: {DIGEST}, "
            'maxGpuHours: 4, maxCost: "8.00"}' in found.message
        )


def test_the_entry_in_the_message_approves_the_job_however_its_amounts_are_rounded() -> None:
    price = Price(per_gpu_hour="0.01", currency="EUR")
    request = replace(job(price=price), gpu_seconds=HOUR + 1)
    above = budget(approval_above=Bound(gpu_seconds=HOUR), currency="EUR")
    message = verdict(request, above).message
    assert message.endswith('maxGpuHours: 1.01, maxCost: "0.02"}.')
    approval = APPROVAL.model_copy(update={"max_gpu_hours": 1.01, "max_cost": "0.02"})
    assert verdict(request, replace(above, approvals=(approval,))).admitted
    unpriced = replace(request, price=None)
    assert verdict(unpriced, above).message.endswith("maxGpuHours: 1.01}.")


def test_an_approval_limits_a_job_of_a_budget_without_a_currency() -> None:
    """Security: the digest does not change with the limit of the job."""
    above = budget(approval_above=Bound(gpu_seconds=HOUR), approvals=(APPROVAL,))
    assert verdict(job(hours=4), above).admitted
    assert verdict(job(hours=9), above).reason == Reason.APPROVAL_NEEDED


def test_training_in_steps_needs_the_approval_of_the_whole() -> None:
    """Security: a limit that is raised after each attempt."""
    above = budget(approval_above=Bound(gpu_seconds=5 * HOUR))
    assert verdict(job(hours=2, trained=3 * HOUR), above).admitted
    found = verdict(job(hours=2, trained=4 * HOUR), above)
    assert found.reason == Reason.APPROVAL_NEEDED
    assert "needs 6 GPU-hours" in found.message
    assert "maxGpuHours: 6}" in found.message
    approval = APPROVAL.model_copy(update={"max_gpu_hours": 6})
    approved = replace(above, approvals=(approval,))
    assert verdict(job(hours=2, trained=4 * HOUR), approved).admitted
    assert not verdict(job(hours=2, trained=5 * HOUR), approved).admitted


def test_an_approval_up_to_a_cost_is_not_for_a_job_without_a_price() -> None:
    """Security: a profile without a price must not make a job free."""
    approval = APPROVAL.model_copy(update={"max_cost": "8.00", "max_gpu_hours": None})
    above = budget(approval_above=Bound(gpu_seconds=HOUR), approvals=(approval,), currency="EUR")
    assert verdict(job(price=EUROS), above).admitted
    for price in (None, Price(per_gpu_hour="2.00", currency="USD")):
        assert verdict(job(price=price), above).reason == Reason.APPROVAL_NEEDED


def test_a_small_job_needs_no_approval() -> None:
    above = budget(approval_above=Bound(gpu_seconds=4 * HOUR))
    assert verdict(job(hours=4), above).admitted
    assert not verdict(job(hours=4.1), above).admitted


def test_a_job_without_its_approval_holds_nobody_up() -> None:
    above = budget(approval_above=Bound(gpu_seconds=5 * HOUR))
    unapproved = replace(older("large", 9), waiting_since=BEFORE)
    assert verdict(job(hours=4), above, others=(unapproved,)).admitted
