"""The part of a page that a command generates, between two markers."""

from __future__ import annotations

from collections.abc import Iterable

END = "<!-- End of the generated part. -->"


def with_lines(page: str, begin: str, lines: Iterable[str]) -> str:
    """Return the page with these lines between ``begin`` and END.

    Raises ValueError without these markers.
    """
    before, found, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"the page needs the lines {begin!r} and {END!r}")
    return f"{before}{begin}\n\n{chr(10).join(lines)}\n{END}{after}"
