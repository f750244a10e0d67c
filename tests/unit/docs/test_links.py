"""Every relative link of the README and the documentation leads to a file and a heading."""

from pathlib import Path

import pytest
from tests.unit.docs.links import ROOT, anchors, broken, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One heading: `code` & more\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n[a](other.md#one-heading-code--more) [b](other.md#none) [c](none.md) [d](#top)\n"
        '<img src="none.svg"> [e](https://example.com/none) `[f](none)`\n```\n[g](none)\n```\n'
    )
    assert broken(page) == ["other.md#none", "none.md", "none.svg"]


def test_code_blocks_have_no_headings() -> None:
    assert anchors("# One\n```\n# two\n```\n## Three four\n") == {"one", "three-four"}
