"""Calendar months in UTC, as times in seconds since 1970."""

from calendar import timegm
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month."""

    year: int
    number: int
    """1 is January."""

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Return the month of a text such as 2026-11. Raises ValueError."""
        year, number = text.split("-")
        return cls(int(year), int(number))

    @property
    def start(self) -> int:
        """The first second."""
        return timegm((self.year, self.number, 1, 0, 0, 0))

    @property
    def end(self) -> int:
        """The first second of the next month."""
        return self.next.start

    @property
    def next(self) -> "Month":
        """The following month."""
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    @property
    def previous(self) -> "Month":
        """The month before."""
        return Month(self.year - (self.number == 1), (self.number - 2) % 12 + 1)

    def __str__(self) -> str:
        """Return the month as in names of objects."""
        return f"{self.year:04d}-{self.number:02d}"


def month_of(time: int) -> Month:
    """Return the month of a time."""
    moment = datetime.fromtimestamp(time, UTC)
    return Month(moment.year, moment.month)
