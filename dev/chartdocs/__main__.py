"""``python -m chartdocs [--check]``: write or check the generated parts of the chart's files.

The tables of chart values stand between two marker lines of their pages. The schema of the value
``defaults`` is a definition in values.schema.json (``schema``). The text around them is written by
hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import generated_part
from chartdocs.schema import with_schema
from chartdocs.values import UndocumentedValue, Value, parse

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = REPOSITORY / "charts/finetune-operator/values.yaml"
PAGES = (
    REPOSITORY / "charts/finetune-operator/README.md",
    REPOSITORY / "docs/reference/helm-values.md",
)
SCHEMA = REPOSITORY / "charts/finetune-operator/values.schema.json"
BEGIN = "<!-- Generated from values.yaml by `make generate`. -->"


def tables(values: Iterable[Value]) -> Iterator[str]:
    """Yield the Markdown lines: a heading and a table for each section."""
    for section, entries in groupby(values, key=lambda value: value.section):
        yield from (f"### {section}", "", "| Value | Description | Default |", "|---|---|---|")
        for value in entries:
            default = "" if value.default is None else f"`{value.default}`"
            example = "".join(f"<br>`{line}`" for line in value.example)
            cells = (f"`{value.path}`", value.description + example, default)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="chartdocs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only report files that are stale")
    check: bool = parser.parse_args().check
    try:
        lines = list(tables(parse(VALUES.read_text(encoding="utf-8"))))
    except UndocumentedValue as error:
        print(f"{VALUES.relative_to(REPOSITORY)}: {error}", file=sys.stderr)
        return 1
    files = {
        page: generated_part.with_lines(page.read_text("utf-8"), BEGIN, lines) for page in PAGES
    }
    files[SCHEMA] = with_schema(SCHEMA.read_text("utf-8"))
    if check:
        return generated_part.check(files, "make generate")
    generated_part.write(files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
