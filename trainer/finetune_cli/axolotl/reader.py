"""Reads a configuration key by key, so that no key is ignored without a note."""

from typing import Any

from finetune_cli.axolotl import keys
from finetune_cli.axolotl.notes import Note, Severity


class Settings:
    """The keys of one mapping; conversions and notes are recorded."""

    def __init__(self, values: dict[str, Any], notes: list[Note], *, at: str = "") -> None:
        """``at`` is the prefix of a key in notes, such as ``datasets[0].``."""
        self._values = {key: value for key, value in values.items() if value is not None}
        self._taken: set[str] = set()
        self.notes = notes
        self.at = at

    def take(self, *names: str) -> Any:
        """Return the value of the first of ``names`` that is set, or None; mark all as read."""
        self._taken |= set(names)
        return next((self._values[name] for name in names if name in self._values), None)

    def dropped(self, key: str, text: str) -> None:
        """Note that a setting is lost."""
        self._note(Severity.DROPPED, key, text)

    def changed(self, key: str, text: str) -> None:
        """Note that the job uses the nearest setting."""
        self._note(Severity.CHANGED, key, text)

    def equivalent(self, key: str, text: str) -> None:
        """Note that the job does the same in another way."""
        self._note(Severity.EQUIVALENT, key, text)

    def named(self, key: str) -> str:
        """Return a key with its value, if that is a scalar, as notes and errors show it."""
        value = self._values.get(key)
        plain = value is not None and not isinstance(value, dict | list)
        return f"{self.at}{key}: {_text(value)}" if plain else f"{self.at}{key}"

    def finish(self) -> None:
        """Add a note about each key that was not read and has a value."""
        for key, value in self._values.items():
            if key not in self._taken | keys.MEANINGLESS and value not in (False, "", [], {}):
                self._note(*self._verdict(key))

    def _verdict(self, key: str) -> tuple[Severity, str, str]:
        severity, reason = keys.UNKNOWN if self.at else keys.verdict(key)
        return severity, key, reason

    def _note(self, severity: Severity, key: str, text: str) -> None:
        self.notes.append(Note(severity=severity, text=f"{self.named(key)}: {text}"))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
