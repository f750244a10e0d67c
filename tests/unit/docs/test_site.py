"""Every page is in the navigation of the site and in the index, with one line."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from tests.unit.docs.links import ROOT

PAGES = {
    str(path.relative_to(ROOT / "docs"))
    for path in ROOT.glob("docs/**/*.md")
    if path != ROOT / "docs" / "README.md"
}


def listed(navigation: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(navigation, str):
        yield navigation
    else:
        parts = navigation.values() if isinstance(navigation, dict) else navigation
        for part in parts:
            yield from listed(part)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    assert sorted(listed(yaml.safe_load(text))) == sorted([*PAGES, "README.md"])


def test_every_page_has_a_line_in_the_index() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\* \[[^\]]+\]\(([\w/-]+\.md)\): \S.*[.;]$", text, re.MULTILINE)
    assert sorted(lines) == sorted(PAGES)
