r"""Patterns of names: the syntax that RE2 and this module understand in the same way. Pure.

Literal characters, ``\`` before punctuation, ``.``, classes such as ``[a-z0-9-]``, groups, ``|``,
and ``*``, ``+`` or ``?`` after one of these. A pattern always matches a whole value. The API server
evaluates it with RE2. Python's ``re`` would do the same, but needs exponential time for some
patterns and values, and the values come from users: ``(a|a?)+b`` and 24 characters take 30 s, here
512 characters take 1 ms. This matcher follows all alternatives at once: its time is proportional to
the product of both lengths. The bindings of RE2 would do that too, but the package depends on
pydantic alone, and a syntax in which both agree must be checked in any case.
"""

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

MAX_LENGTH = 128
LITERALS = frozenset(string.ascii_letters + string.digits + "_/:@=,~ -")
ESCAPED = frozenset(".*+?()|[]{}^$\\/-")
IN_CLASS = frozenset(string.ascii_letters + string.digits + "_./:@=,~-")
Accepts = Callable[[str], bool]


class InvalidPattern(ValueError):
    """A pattern is not in the common syntax; the message names the pattern and the position."""


@dataclass
class _Program:
    """A nondeterministic automaton. State 0 is the end."""

    step: list[tuple[Accepts, int] | None] = field(default_factory=lambda: [None])
    """The character that leaves a state, and the state that follows."""

    free: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    """States that follow without a character."""

    def add(self, step: tuple[Accepts, int] | None, *free: int) -> int:
        self.step.append(step)
        self.free.append(free)
        return len(self.step) - 1

    def closure(self, states: Iterable[int]) -> set[int]:
        """Return states and all that follow from them without a character."""
        reached: set[int] = set()
        open_states = list(states)
        while open_states:
            state = open_states.pop()
            if state not in reached:
                reached.add(state)
                open_states += self.free[state]
        return reached


class _Parser:
    """Reads a pattern from its end of the automaton: each part is built towards the next one."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0
        self.program = _Program()

    def parse(self) -> tuple[_Program, int]:
        node = self._alternatives()
        if self.at < len(self.pattern):
            raise self._error()
        return self.program, node(0)

    def _alternatives(self) -> Callable[[int], int]:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return lambda end: self.program.add(None, *(part(end) for part in parts))

    def _sequence(self) -> Callable[[int], int]:
        parts: list[Callable[[int], int]] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))

        def build(end: int) -> int:
            for part in reversed(parts):
                end = part(end)
            return end

        return build

    def _repeated(self, atom: Callable[[int], int]) -> Callable[[int], int]:
        if self._take("?"):
            return lambda end: self.program.add(None, atom(end), end)
        if self._take("*"):
            return lambda end: self._loop(atom, end)[1]
        if self._take("+"):
            return lambda end: self._loop(atom, end)[0]
        return atom

    def _loop(self, atom: Callable[[int], int], end: int) -> tuple[int, int]:
        """Return the states before the first and before every further repetition."""
        again = self.program.add(None)
        first = atom(again)
        self.program.free[again] = (first, end)
        return first, again

    def _atom(self) -> Callable[[int], int]:
        if self._take("("):
            group = self._alternatives()
            if not self._take(")"):
                raise self._error()
            return group
        accepts = self._character()
        return lambda end: self.program.add((accepts, end))

    def _character(self) -> Accepts:
        if self._take("."):
            return lambda char: char != "\n"
        if self._take("["):
            return self._class()
        allowed = ESCAPED if self._take("\\") else LITERALS
        return self._next(allowed).__eq__

    def _class(self) -> Accepts:
        negated = self._take("^")
        chars: set[str] = set()
        while not self._take("]"):
            first = self._next(IN_CLASS)
            rest = self.pattern[self.at :]
            if first != "-" and rest.startswith("-") and not rest.startswith("-]"):
                self.at += 1
                last = self._next(IN_CLASS)
                if not (first.isalnum() and last.isalnum() and first <= last):
                    raise self._error()
                chars.update(map(chr, range(ord(first), ord(last) + 1)))
            elif first == "-" and chars and not rest.startswith("]"):
                raise self._error()
            else:
                chars.add(first)
        if not chars:
            raise self._error()
        return (lambda char: char not in chars) if negated else chars.__contains__

    def _take(self, char: str) -> bool:
        taken = self.pattern.startswith(char, self.at)
        self.at += taken
        return taken

    def _next(self, allowed: frozenset[str]) -> str:
        char = self.pattern[self.at : self.at + 1]
        if char not in allowed:
            raise self._error()
        self.at += 1
        return char

    def _error(self) -> InvalidPattern:
        return InvalidPattern(
            f"pattern {self.pattern!r} is invalid at character {self.at + 1}: use letters, digits, "
            "'.', classes such as [a-z], groups, '|', '*', '+' and '?', and write \\ before other "
            "punctuation"
        )


def check(pattern: str) -> str:
    """Return a pattern. Raises InvalidPattern."""
    if not 0 < len(pattern) <= MAX_LENGTH:
        raise InvalidPattern(f"pattern {pattern!r} must have 1 to {MAX_LENGTH} characters")
    _compiled(pattern)
    return pattern


@lru_cache(maxsize=4096)
def matches(pattern: str, value: str) -> bool:
    """Report whether a pattern matches a whole value. Raises InvalidPattern."""
    program, start = _compiled(pattern)
    states = program.closure([start])
    for char in value:
        steps = (program.step[state] for state in states)
        states = program.closure(step[1] for step in steps if step and step[0](char))
    return 0 in states


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> tuple[_Program, int]:
    return _Parser(pattern).parse()
