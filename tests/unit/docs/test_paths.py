"""Every path that README, CONTRIBUTING and the documentation name exists in the repository."""

import re
from pathlib import Path

import pytest
from tests.unit.docs.links import ROOT, pages

CODE = re.compile(r"`([^`\n]+)`")
TOPS = (
    *("bench", "charts", "constraints", "crds", "dev", "docs", "examples", "gitops"),
    *("operator", "tests", "trainer"),
)
FROM_ROOT = re.compile(rf"(?:{'|'.join(TOPS)})/[\w./-]*")
MODULE = re.compile(r"(?:[\w-]+/)*\w+\.py")
MODULES = [str(path.relative_to(ROOT)) for top in TOPS for path in (ROOT / top).rglob("*.py")]


def missing(text: str) -> list[str]:
    """Return the paths in the code of a page that do not exist.

    A module may be named by the end of its path, as ``contracts/result.py``.
    """
    names = [name for code in CODE.findall(text) for name in code.split()]
    gone = [name for name in names if FROM_ROOT.fullmatch(name) and not (ROOT / name).exists()]
    return gone + [
        name
        for name in names
        if MODULE.fullmatch(name) and not any(f"/{path}".endswith(f"/{name}") for path in MODULES)
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


TEST = re.compile(r"([\w/]+\.py)::(test_\w+)")


def missing_tests(text: str) -> list[str]:
    """Return the tests in the code of a page, as ``unit/test_a.py::test_b``, that do not exist."""
    names = [found for code in CODE.findall(text) if (found := TEST.fullmatch(code))]
    return [
        found[0]
        for found in names
        if not (path := ROOT / "tests" / found[1]).is_file()
        or f"def {found[2]}(" not in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_exist(page: Path) -> None:
    assert missing_tests(page.read_text(encoding="utf-8")) == []


def test_missing_tests_are_found() -> None:
    own = "unit/docs/test_paths.py::test_missing"
    text = f"`{own}` `{own}_tests_are_found` `unit/docs/none.py::test_a`"
    assert missing_tests(text) == [own, "unit/docs/none.py::test_a"]


def test_missing_paths_are_found() -> None:
    text = "`docs/none.md` `dev/cluster/` `contracts/result.py` `contracts/none.py` `none.py`"
    assert missing(text) == ["docs/none.md", "contracts/none.py", "none.py"]
