"""Read the links and anchors of Markdown pages, without the network."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
ATTRIBUTE = re.compile(r"\b(?:href|src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)")


def pages() -> list[Path]:
    """Return every Markdown page whose links are checked."""
    globs = ("*.md", "docs/**/*.md", "bench/*.md", "examples/*.md")
    return sorted(page for each in globs for page in ROOT.glob(each))


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and images, except those in code."""
    prose = CODE.sub("", FENCE.sub("", text))
    yield from INLINE.findall(prose)
    yield from ATTRIBUTE.findall(prose)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs derive them."""
    found: set[str] = set()
    for title in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead to no file or to no heading."""
    text = page.read_text(encoding="utf-8")
    failures = []
    for link in links(text):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and not _has(target, anchor)):
            failures.append(link)
    return failures


def _has(page: Path, anchor: str) -> bool:
    return anchor in anchors(page.read_text(encoding="utf-8"))
