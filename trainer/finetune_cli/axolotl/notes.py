"""Notes about the conversion of a setting, with their severity, and the error that rejects one."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from finetune_trainer.errors import InvalidSpec


class Severity(StrEnum):
    """The effect of a conversion on the trained model. The order is that of the output."""

    DROPPED = "dropped"
    """The setting is lost, and can affect the trained model or whether the job works."""
    CHANGED = "changed"
    """The job uses the nearest setting that it has."""
    EQUIVALENT = "equivalent"
    """The job does the same in another way, or the setting does not affect the trained model."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """One line about one setting of the configuration. key: such as ``datasets[].type``."""

    severity: Severity
    key: str
    text: str

    def __str__(self) -> str:
        """Return the line, with aligned severities."""
        return f"{self.severity:<10}  {self.text}"


class Refusal(InvalidSpec):
    """A FineTuneJob cannot run the configuration because of one setting. key: as in a note."""

    def __init__(self, message: str, *, key: str) -> None:
        """Raise this error with a message that names the setting."""
        super().__init__(message)
        self.key = key


def by_severity(notes: Iterable[Note]) -> list[Note]:
    """Return the notes with the most severe ones first, otherwise in their order."""
    order = list(Severity)
    return sorted(notes, key=lambda note: order.index(note.severity))


def count(notes: Iterable[Note], severity: Severity) -> int:
    """Return the number of notes of a severity."""
    return sum(note.severity == severity for note in notes)
