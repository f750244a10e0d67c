"""Every page is in the navigation of the site and in the index, with one line."""

import re

from tests.unit.docs.links import ROOT

PAGES = {
    str(path.relative_to(ROOT / "docs"))
    for path in ROOT.glob("docs/**/*.md")
    if path != ROOT / "docs" / "README.md"
}


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted([*PAGES, "README.md"])


def test_every_page_has_a_line_in_the_index() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\* \[[^\]]+\]\(([\w/-]+\.md)\): \S.*[.;]$", text, re.MULTILINE)
    assert sorted(listed) == sorted(PAGES)
