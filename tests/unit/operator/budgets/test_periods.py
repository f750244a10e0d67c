"""Calendar periods in UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.v1alpha1.budgets.spec import PeriodName
from finetune_operator.budgets.periods import containing

NAMES: tuple[PeriodName, ...] = ("Day", "Week", "Month")


@pytest.mark.parametrize(
    ("name", "now", "start", "end"),
    [
        ("Day", "2026-11-30T23:59:59", "2026-11-30", "2026-12-01"),
        ("Week", "2026-11-29T12:00:00", "2026-11-23", "2026-11-30"),
        ("Week", "2026-11-30T00:00:00", "2026-11-30", "2026-12-07"),
        ("Month", "2026-11-30T23:00:00", "2026-11-01", "2026-12-01"),
        ("Month", "2026-12-01T00:00:00", "2026-12-01", "2027-01-01"),
        ("Month", "2028-02-29T10:00:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_boundaries(name: PeriodName, now: str, start: str, end: str) -> None:
    period = containing(name, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert f"{period.start:%Y-%m-%d} {period.end:%Y-%m-%d}" == f"{start} {end}"


def test_the_clock_of_the_operator_may_have_another_time_zone() -> None:
    east = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert containing("Month", east).start == datetime(2026, 11, 1, tzinfo=UTC)


@given(st.sampled_from(NAMES), st.datetimes(timezones=st.just(UTC), max_value=datetime(3000, 1, 1)))
def test_periods_follow_each_other_without_a_gap(name: PeriodName, now: datetime) -> None:
    period = containing(name, now)
    assert period.start <= now < period.end
    assert period.next.start == period.end
    assert containing(name, period.start) == period
    assert period.has(now.date())
    assert not period.has(period.after)
