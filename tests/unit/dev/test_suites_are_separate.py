"""No suite imports a module of another one: what several suites use is in tests/support."""

import ast
from collections.abc import Iterator
from pathlib import Path

from cluster import paths

ROOT = paths.REPO / "tests"
SHARED = {"support", "fakes"}
"""Folders that every suite may import; they import no suite."""
OF_THE_ROOT = {"tests.conftest"}


def imported(source: str) -> Iterator[str]:
    """Yield the modules of the tests that a module imports, for ``from`` with each name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def foreign(suite: str, source: str) -> list[str]:
    """Return the imports of a module that belong to another suite."""
    own = {suite, *SHARED} if suite not in SHARED else SHARED
    return [
        name
        for name in imported(source)
        if name.startswith("tests.") and name not in OF_THE_ROOT and name.split(".")[1] not in own
    ]


def test_no_module_imports_another_suite() -> None:
    found: dict[str, list[str]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        place: Path = file.relative_to(ROOT)
        if len(place.parts) > 1:
            found[str(place)] = foreign(place.parts[0], file.read_text(encoding="utf-8"))
    assert found
    assert {place: names for place, names in found.items() if names} == {}


def test_each_form_of_an_import_is_found() -> None:
    source = """
import tests.unit.api.leaves
from tests import conftest
from tests.chart import helm
from tests.integration.test_release import Registry
from tests.support import ports
from tests.fakes.kubelet import running
from elsewhere import tests
def later():
    from tests.e2e import pods
"""
    assert foreign("chart", source) == [
        "tests.unit.api.leaves",
        "tests.integration.test_release.Registry",
        "tests.e2e.pods",
    ]
    assert "tests.chart.helm" in foreign("support", source)
