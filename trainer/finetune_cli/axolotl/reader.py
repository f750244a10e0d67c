"""Reads a configuration key by key, so that no key is ignored without a note."""

import math
import re
from typing import Any

from finetune_cli.axolotl import keys
from finetune_cli.axolotl.notes import Note, Refusal, Severity

WORDS = {"yes": True, "on": True, "no": False, "off": False}
"""Words that Axolotl reads as booleans, as YAML 1.1 does; the loader of ``ftj`` reads text."""


class Settings:
    """The keys of one mapping; conversions and notes are recorded.

    The methods that are named after a type raise Refusal for a value of another type.
    """

    def __init__(self, values: dict[Any, Any], notes: list[Note], *, at: str = "") -> None:
        """``at`` is the prefix of a key in notes, such as ``datasets[0].``."""
        self._values = {
            str(key): WORDS.get(value.lower(), value) if isinstance(value, str) else value
            for key, value in values.items()
            if value is not None
        }
        self._taken: set[str] = set()
        self.notes = notes
        self.at = at

    def take(self, *names: str) -> Any:
        """Return the value of the first of ``names`` that is set, or None; mark all as read."""
        self._taken |= set(names)
        return self.peek(*names)

    def peek(self, *names: str) -> Any:
        """Return the value of the first of ``names`` that is set, or None; mark none as read."""
        return next((self._values[name] for name in names if name in self._values), None)

    def text(self, *names: str) -> str | None:
        """Return a text; a number is one, too."""
        value = self.take(*names)
        if isinstance(value, bool | list | dict):
            raise self._wrong(names, "a text")
        return None if value is None else str(value)

    def number(self, *names: str) -> float | None:
        """Return a number, which can be written as text."""
        return self._number(names, "a number")

    def integer(self, *names: str) -> int | None:
        """Return an integer."""
        number = self._number(names, "an integer")
        if number is not None and number != int(number):
            raise self._wrong(names, "an integer")
        return None if number is None else int(number)

    def flag(self, *names: str) -> bool | None:
        """Return a boolean; None if none is set, or ``auto``."""
        value = self.take(*names)
        if value in (None, "auto"):
            return None
        if value not in (True, False):
            raise self._wrong(names, "true or false")
        return bool(value)

    def list_of_names(self, *names: str) -> list[str]:
        """Return a list of texts, empty if none is set; a single text is a list with one entry."""
        value = self.take(*names)
        texts = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(text, str) for text in texts):
            raise self._wrong(names, "a list of names")
        return [*texts]

    def mapping(self, *names: str) -> dict[str, Any]:
        """Return a mapping, empty if none is set."""
        value = {} if (given := self.take(*names)) is None else given
        if not isinstance(value, dict):
            raise self._wrong(names, "a map")
        return value

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
                severity, reason = keys.verdict(key, of_dataset=bool(self.at))
                self._note(severity, key, reason)

    def refusal(self, key: str, text: str) -> Refusal:
        """Return an error that names a setting with its value; ``text`` continues the sentence."""
        return Refusal(f"{self.named(key)} {text}", key=self._key(key))

    def _number(self, names: tuple[str, ...], kind: str) -> float | None:
        value = self.take(*names)
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or (number is not None and not math.isfinite(number)):
            raise self._wrong(names, kind)
        return number

    def _wrong(self, names: tuple[str, ...], kind: str) -> Refusal:
        key = next(name for name in names if name in self._values)
        return self.refusal(key, f"is not {kind}: write {kind}, or remove {key}")

    def _note(self, severity: Severity, key: str, text: str) -> None:
        text = f"{self.named(key)}: {text}"
        self.notes.append(Note(severity=severity, key=self._key(key), text=text))

    def _key(self, key: str) -> str:
        """Return the full name of a key, without the position in a list."""
        return re.sub(r"\[\d+\]", "[]", self.at) + key


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
