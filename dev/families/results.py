"""The results of the published models: the circle of each, and the names of its tensors."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families import children, circle, layouts
from families.circle import Circle
from families.published import MODELS

FILE = Path(__file__).with_name("results.json")


@dataclass(frozen=True, kw_only=True)
class Results:
    """The circles by model. names: why ``prepare`` rejects a published repository, or nothing."""

    transformers: str
    circles: Mapping[str, Circle]
    names: Mapping[str, str]


@functools.cache
def load() -> Results:
    """Return the written results."""
    written = json.loads(FILE.read_text(encoding="utf-8"))
    circles = {name: Circle(**fields) for name, fields in written["circles"].items()}
    return Results(**{**written, "circles": circles})


def run(models: Sequence[str]) -> int:
    """Run the circles of all models, or of these, and write the results.

    Return 1 if one is broken: it would fail after ``prepare`` has accepted it.
    """
    if unknown := sorted(set(models) - set(MODELS)):
        print(f"no such model: {', '.join(unknown)}", file=sys.stderr)
        return 1
    import transformers

    circles = dict(load().circles) if models else {}
    children.preload()
    chosen = models or list(MODELS)
    for number, name in enumerate(chosen, start=1):
        circles[name] = _ran(name)
        print(f"[{number}/{len(chosen)}] {name}: {summary(circles[name])}", flush=True)
    names = {
        name: children.call(layouts.rejection, layout)
        for name, layout in layouts.all_layouts().items()
    }
    results = Results(transformers=transformers.__version__, circles=circles, names=names)
    FILE.write_text(text(results), encoding="utf-8")
    load.cache_clear()
    return int(any(result.broken for result in circles.values()))


def _ran(name: str) -> Circle:
    try:
        return children.call(circle.run, MODELS[name])
    except children.NoResult as error:
        return Circle(broken=str(error))


def summary(circle: Circle) -> str:
    """Return the result of a model as one line."""
    if circle.rejected or circle.broken:
        return f"rejected: {circle.rejected}" if circle.rejected else f"BROKEN: {circle.broken}"
    return (
        f"difference {circle.difference:.4f}, effect {circle.effect:.2f}, "
        f"{circle.quantized:.0%} quantized" + ("" if circle.verified else ", NOT VERIFIED")
    )


def text(results: Results) -> str:
    """Return the file of the results: one model in each line."""
    circles = {name: _short(result) for name, result in sorted(results.circles.items())}
    return (
        f'{{"transformers": {json.dumps(results.transformers)},\n'
        f'"circles": {_lines(circles)},\n'
        f'"names": {_lines(dict(sorted(results.names.items())))}}}\n'
    )


def _lines(values: Mapping[str, Any]) -> str:
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()
    )
    return f"{{\n{rows}\n}}"


def _short(result: Circle) -> dict[str, Any]:
    """Return the fields that are set, without the figures that depend on the machine."""
    empty = dataclasses.asdict(Circle())
    values = dataclasses.asdict(result) | {"quantized": round(result.quantized, 2)}
    return {
        key: value
        for key, value in values.items()
        if value != empty[key] and key not in ("difference", "effect")
    }
