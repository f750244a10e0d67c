"""Runs the mutants of function bodies: in a pytest session that has collected the tests of an area.

The session forks for each mutant. The fork replaces the code of the mutated function and runs the
tests that call this function, the fastest first, until one fails. So a mutant costs no import, no
collection, and no test that cannot detect it. Which tests call which functions is recorded once,
by forks that run all tests.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import gc
import os
import pickle
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from mutants import mutations, runner

LEAST_SECONDS = 60
SLOWER = 10
"""A mutant counts as detected if its tests take so much longer than when they were recorded: its
loop is endless. The tests of a fast function have ``LEAST_SECONDS``."""
DETECTED, SURVIVED, NOT_REPLACEABLE = 0, 10, 11
"""Exit codes of the fork of a mutant. Any other code, or a signal, is a detection, too."""
RECORD = "_record_call"
"""Built-in function of the forks that record calls."""
Function = tuple[str, str]
"""File and qualified name of an outermost function."""
Functions = dict[Function, list[list[FunctionType]]]
"""The objects of a function; several lists if a class defines the name more than once."""
Calls = list[tuple[int, float, set[Function]]]
"""Number and seconds of tests, and the functions that they call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """A mutant of a function body: the module's file, the function, and the mutated source."""

    file: str
    function: str
    source: str

    @property
    def key(self) -> Function:
        """The function."""
        return self.file, self.function


def run(
    faults: Sequence[Fault], tests: Sequence[str], *, lanes: int, end: float
) -> dict[int, bool | None]:
    """Return whether each mutant survived, by its number; those that did not run are left out.

    The value is None if a function cannot be replaced: the modules call it while they are imported,
    or a mutant of it closes over other variables. lanes: forks at a time; end: the monotonic time
    after which no mutant starts.
    """
    runner.silence()
    session = _Session(faults, lanes=lanes, end=end)
    with _recorded(session.files) as session.imported:
        code = pytest.main([*runner.OPTIONS, *tests], plugins=[session])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"the tests cannot be collected: {code!r}")
    return session.survived


class _Session:
    """A pytest plugin that runs mutants instead of the tests."""

    def __init__(self, faults: Sequence[Fault], *, lanes: int, end: float) -> None:
        self.faults, self.lanes, self.end = faults, lanes, end
        self.files = frozenset(fault.file for fault in faults)
        self.imported: set[Function] = set()
        self.survived: dict[int, bool | None] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the mutants."""
        sys.settrace(None)
        functions = _functions(self.files)
        tests = self._record(session.items, functions)
        # A collection in a fork would copy the memory of the session.
        gc.freeze()
        running: dict[int, tuple[int, float]] = {}
        for number, fault in enumerate(self.faults):
            if fault.key in self.imported:
                self.survived[number] = None
                continue
            while len(running) == self.lanes:
                self._wait(running)
            if time.monotonic() > self.end:
                break
            chosen = tests.get(fault.key, [])
            items = [session.items[test] for _, test in chosen]
            child = _forked(functools.partial(_outcome, fault, functions, items))
            seconds = max(LEAST_SECONDS, SLOWER * sum(duration for duration, _ in chosen))
            running[child] = (number, time.monotonic() + seconds)
        while running:
            self._wait(running)
        return True

    def _record(
        self, items: Sequence[pytest.Item], functions: Functions
    ) -> dict[Function, list[tuple[float, int]]]:
        """Return seconds and number of the tests that call each function, the fastest first."""
        callers: dict[Function, list[tuple[float, int]]] = defaultdict(list)
        parts = [range(lane, len(items), self.lanes) for lane in range(self.lanes)]
        for child, pipe in [
            _piped(functools.partial(_calls, items, part, functions)) for part in parts
        ]:
            with os.fdopen(pipe, "rb") as stream:
                calls: Calls = pickle.load(stream)  # noqa: S301 (of a fork of this process)
            os.waitpid(child, 0)
            for number, seconds, called in calls:
                for function in called:
                    callers[function].append((seconds, number))
        return {function: sorted(tests) for function, tests in callers.items()}

    def _wait(self, running: dict[int, tuple[int, float]]) -> None:
        """Wait until a mutant has ended, or end one whose time is up."""
        while True:
            for child, (number, deadline) in list(running.items()):
                late = time.monotonic() > deadline
                if late:
                    os.killpg(child, signal.SIGKILL)
                ended, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if ended:
                    del running[child]
                    code = os.waitstatus_to_exitcode(status)
                    self.survived[number] = None if code == NOT_REPLACEABLE else code == SURVIVED
                    return
            time.sleep(0.005)


def _calls(items: Sequence[pytest.Item], numbers: range, functions: Functions) -> Calls:
    """Run tests, and return the functions that each of them calls."""
    called: set[Function] = set()
    setattr(builtins, RECORD, called.add)
    for file in {file for file, _ in functions}:
        recording = compile(_recording(file), file, "exec", dont_inherit=True)
        for name in {name for of, name in functions if of == file}:
            _replace(functions[file, name], recording, name)
    caches = [
        object_ for object_ in gc.get_objects() if isinstance(object_, functools._lru_cache_wrapper)
    ]
    calls: Calls = []
    for number in numbers:
        called.clear()
        for cache in caches:
            # A result of an earlier test would hide a call.
            cache.cache_clear()
        start = time.monotonic()
        # A test that fails without a mutant detects none.
        if _passes(items[number]):
            calls.append((number, time.monotonic() - start, set(called)))
    return calls


def _recording(file: str) -> ast.Module:
    """Return a module in which each outermost function records its calls: faster than a tracer."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    for function, name in mutations.functions(tree):
        call = ast.parse(f"{RECORD}(({file!r}, {name!r}))").body
        function.body[:0] = call
    return tree


def _functions(files: frozenset[str]) -> Functions:
    """Return the functions that exist, by file and name, in the order of their lines."""
    by_key: dict[Function, dict[CodeType, list[FunctionType]]] = defaultdict(dict)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename in files:
            codes = by_key[function.__code__.co_filename, function.__code__.co_qualname]
            codes.setdefault(function.__code__, []).append(function)
    return {
        key: [codes[code] for code in sorted(codes, key=_line)] for key, codes in by_key.items()
    }


def _outcome(fault: Fault, functions: Functions, items: Sequence[pytest.Item]) -> int:
    module = compile(fault.source, fault.file, "exec", dont_inherit=True)
    if not _replace(functions.get(fault.key, []), module, fault.function):
        return NOT_REPLACEABLE
    return SURVIVED if all(map(_passes, items)) else DETECTED


def _replace(originals: list[list[FunctionType]], module: CodeType, name: str) -> bool:
    """Replace the code of a function by that of a module; report whether that was possible."""
    mutated = sorted((code for code in _codes(module) if code.co_qualname == name), key=_line)
    if not originals or len(originals) != len(mutated):
        return False
    pairs = [
        (function, code) for same, code in zip(originals, mutated, strict=True) for function in same
    ]
    if any(function.__code__.co_freevars != code.co_freevars for function, code in pairs):
        return False
    for function, code in pairs:
        function.__code__ = code
    return True


def _line(code: CodeType) -> int:
    return code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _passes(item: pytest.Item) -> bool:
    """Run a test with its own fixtures; report whether it passed."""
    failed = item.session.testsfailed
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
    return item.session.testsfailed == failed


@contextmanager
def _recorded(files: frozenset[str]) -> Iterator[set[Function]]:
    """Return the outermost functions in ``files`` that are called in this block."""
    functions: set[Function] = set()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_filename in files:
            functions.add((code.co_filename, code.co_qualname.partition(".<locals>")[0]))

    sys.settrace(called)
    try:
        yield functions
    finally:
        sys.settrace(None)


def _forked(work: Callable[[], int]) -> int:
    """Run ``work`` in a fork that exits with its result; return the fork's id."""
    child = os.fork()
    if child:
        return child
    try:
        runner.end_with_parent()
        code = work()
    except BaseException:
        code = DETECTED
    os._exit(code)


def _piped(work: Callable[[], Any]) -> tuple[int, int]:
    """Run ``work`` in a fork; return the fork's id, and a pipe with the pickled result."""
    reader, writer = os.pipe()

    def write() -> int:
        result = pickle.dumps(work())
        with os.fdopen(writer, "wb") as stream:
            stream.write(result)
        return 0

    child = _forked(write)
    os.close(writer)
    return child, reader
