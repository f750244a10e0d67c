"""The mutations that ``make mutants`` plants."""

import ast

import pytest

from cluster import paths
from mutants import mutations, targets


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
