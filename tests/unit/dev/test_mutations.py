"""The mutations that ``make mutants`` plants."""

import ast
import concurrent.futures
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from cluster import paths
from mutants import mutations, session, targets


def changes(source: str) -> set[tuple[str, str]]:
    return {(each.before, each.after) for each in mutations.mutants("m", source)}


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("x = a < b", "a < b", "a <= b"),
        ("x = a in b", "a in b", "a not in b"),
        ("x = a and b", "a and b", "a or b"),
        ("x = not a", "not a", "bool(a)"),
        ("x = a + 1", "a + 1", "a - 1"),
        ("x = any(a)", "any(a)", "all(a)"),
        ("x = True", "True", "False"),
        ("x = 8", "8", "9"),
        ("x = 'Failed'", "'Failed'", "'FailedX'"),
        ("x = a if b else c", "a if b else c", "c"),
        ("def f():\n    return a", "return a", "return None"),
        ("f(a)", "f(a)", "pass"),
        ("if a:\n    b = c", "if a: b = c", "if False: b = c"),
    ],
)
def test_a_mutation_is_found(source: str, before: str, after: str) -> None:
    assert (before, after) in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "import a",
        "x = 'a sentence for people'",
        "x: 'Annotation' = y",
        "@decorator(1)\nclass A:\n    pass",
        "x = f'{a} is {b}'",
    ],
)
def test_texts_imports_and_annotations_are_not_mutated(source: str) -> None:
    assert changes(source) == set()


def test_each_number_gives_the_mutated_source() -> None:
    source = "def f(a, b):\n    return a < b and (not a or b == 1)\n"
    found = mutations.mutants("m", source)
    written = [mutations.mutated(source, each.number) for each in found]
    assert len(set(written)) == len(found) == 7
    assert all(ast.dump(ast.parse(text)) != ast.dump(ast.parse(source)) for text in written)


def test_a_name_has_no_line_number() -> None:
    first, second = mutations.mutants("m", "x = 1"), mutations.mutants("m", "\n\nx = 1")
    assert [each.name for each in first] == [each.name for each in second]
    assert [each.line for each in first] != [each.line for each in second]


def test_equal_mutants_have_different_names() -> None:
    source = "x = [1, 1]\ndef f():\n    g(1)\nclass C:\n    def f(self):\n        g(1)"
    names = [each.name for each in mutations.mutants("m", source) if each.before == "1"]
    assert names == ["m: 1 -> 2", "m: 1 -> 2 #2", "m.f: 1 -> 2", "m.C.f: 1 -> 2"]


def test_a_number_out_of_range_is_an_error() -> None:
    with pytest.raises(IndexError):
        mutations.mutated("x = 1", 5)


@pytest.mark.parametrize("area", targets.AREAS, ids=lambda area: area.packages[0])
def test_areas_name_modules_and_tests_that_exist(area: targets.Area) -> None:
    found = targets.modules(area)
    for package in area.packages:
        own = [file for module, file in found.items() if module.startswith(package)]
        assert own, package
        assert all(file.is_file() for file in own), package
    assert all((paths.REPO / place).exists() for place in (*area.tests, *area.left_out))


def test_a_mutant_of_a_function_body_names_the_outermost_function() -> None:
    source = (
        "class A:\n"
        "    x = 1\n"
        "    def f(self, y=2):\n"
        "        def g(z=3):\n"
        "            return z + 4\n"
        "        return g()\n"
    )
    found = {each.before: each.function for each in mutations.mutants("m", source)}
    inner = ("3", "4", "z + 4", "return z + 4", "return g()")
    assert found == {"1": "", "2": "", **dict.fromkeys(inner, "A.f")}


MODULE = """
from functools import cache

@cache
def remembered(a):
    return a + 7

def tested(a):
    return a + 1

def called(a):
    return a + 2

def at_import(a):
    return a + 3

def never_called(a):
    return a + 4

def endless(a):
    while a < 5:
        a += 1
    return a

X = at_import(1)
"""
TESTS = """
from planted import called, endless, remembered, tested

def test_first_call():
    remembered(1)

def test_remembered_result():
    assert remembered(1) == 8

def test_result():
    assert tested(1) == 2

def test_no_result():
    called(1)

def test_end():
    assert endless(1) == 5

def test_that_fails_without_a_mutant():
    called(1)
    assert False
"""


def test_a_session_runs_the_tests_that_call_the_mutated_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "planted.py"
    file.write_text(MODULE)
    (tmp_path / "test_planted.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # The inner session does not know the options of this one.
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    chosen = {
        "a + 7": ("a - 7", False),
        "a + 1": ("a - 1", False),
        "a + 2": ("a - 2", True),
        "a + 3": ("a - 3", None),
        "a + 4": ("a - 4", True),
        "a < 5": ("a <= 5", False),
    }
    found = [
        each
        for each in mutations.mutants("planted", MODULE)
        if (each.before, each.after) in {(before, after) for before, (after, _) in chosen.items()}
    ]
    faults = [
        session.Fault(
            file=str(file),
            function=each.function,
            source=mutations.mutated(MODULE, each.number),
        )
        for each in found
    ]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        results = pool.submit(
            session.run,
            faults,
            [str(tmp_path), f"--rootdir={tmp_path}", f"-c{tmp_path}/pytest.ini"],
            lanes=2,
            end=time.monotonic() + 3600,
        ).result()
    assert {found[number].before: result for number, result in results.items()} == {
        before: result for before, (_, result) in chosen.items()
    }
