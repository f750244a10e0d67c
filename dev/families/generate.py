"""Measures all families, each in a child process with a time limit, and writes the table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from families import children, measure, tiny
from finetune_trainer.attention.families import FILE, Family


def rows(names: Sequence[str]) -> dict[str, Family]:
    """Measure these families one after the other; print each."""
    children.preload()
    measured = {}
    for number, name in enumerate(names, start=1):
        measured[name] = _measured(name)
        print(f"[{number}/{len(names)}] {name}: {summary(measured[name])}", flush=True)
    return measured


def _measured(name: str) -> Family:
    try:
        return children.call(measure.row, name)
    except children.NoResult as error:
        return Family(unmeasured=str(error))


def summary(row: Family) -> str:
    """Return a row as one line."""
    if row.unmeasured or row.rejected:
        return f"not measured: {row.unmeasured}" if row.unmeasured else f"rejected: {row.rejected}"
    kernels = f"{', '.join(row.padded)}; packed: {', '.join(row.packed) or 'no'}"
    return f"{kernels}; {row.why}" if row.why else kernels


def text(families: dict[str, Family]) -> str:
    """Return the file of the table: one family in each line."""
    import transformers

    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(_short(row))}" for name, row in sorted(families.items())
    )
    version = json.dumps(transformers.__version__)
    return f'{{"transformers": {version}, "families": {{\n{lines}\n}}}}\n'


def _short(row: Family) -> dict[str, Any]:
    empty = dataclasses.asdict(Family())
    return {key: value for key, value in dataclasses.asdict(row).items() if value != empty[key]}


def run(names: Sequence[str]) -> int:
    """Measure all families, or these, and write the table; return the exit status."""
    from finetune_trainer.attention import families

    if unknown := sorted(set(names) - set(tiny.names())):
        print(f"no such family: {', '.join(unknown)}", file=sys.stderr)
        return 1
    kept = dict(families.table().families) if names else {}
    FILE.write_text(text(kept | rows(names or tiny.names())), encoding="utf-8")
    # The page is written from the new table.
    families.table.cache_clear()
    return 0
