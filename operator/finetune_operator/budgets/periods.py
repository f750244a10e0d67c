"""Calendar periods in UTC, at whose end a budget starts again. Weeks start on Monday."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from finetune_api.v1alpha1.budgets.spec import PeriodName

_MONTHS = 12


@dataclass(frozen=True, kw_only=True)
class Period:
    """One period: from ``first`` to the day before ``after``."""

    name: PeriodName
    first: date
    after: date

    @property
    def start(self) -> datetime:
        """Beginning of the period."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """End of the period, which is the beginning of the next one."""
        return datetime.combine(self.after, time(), UTC)

    @property
    def next(self) -> "Period":
        """The period that follows."""
        return containing(self.name, self.end)

    def has(self, day: date) -> bool:
        """Report whether a day belongs to the period."""
        return self.first <= day < self.after


def containing(name: PeriodName, now: datetime) -> Period:
    """Return the period that contains a time."""
    day = now.astimezone(UTC).date()
    if name == "Day":
        return Period(name=name, first=day, after=day + timedelta(days=1))
    if name == "Week":
        monday = day - timedelta(days=day.weekday())
        return Period(name=name, first=monday, after=monday + timedelta(days=7))
    first = day.replace(day=1)
    years, month = divmod(first.month, _MONTHS)
    return Period(name=name, first=first, after=date(first.year + years, month + 1, 1))
