"""The families that the installed Unsloth trains with kernels of its own: read from its source.

Importing Unsloth would patch the libraries of the process.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def fast() -> frozenset[str]:
    """Return the values of ``model_type`` for which FastLanguageModel selects a class of its own.

    It passes all others to its general loader.
    """
    spec = importlib.util.find_spec("unsloth")
    assert spec is not None, "Unsloth is not installed"
    assert spec.origin is not None
    source = Path(spec.origin).parent / "models/loader.py"
    families = frozenset(parse(source.read_text(encoding="utf-8")))
    assert families, f"{source} does not select a model class by model_type"
    return families


def parse(source: str) -> Iterator[str]:
    """Yield the texts that a source compares with ``model_type`` before it selects a class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and any(map(_selects, node.body)):
            test = node.test
            if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name):
                values = [
                    comparator.value
                    for comparator in test.comparators
                    if isinstance(comparator, ast.Constant)
                ]
                yield from map(str, values if test.left.id == "model_type" else [])


def _selects(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "dispatch_model" for target in node.targets
    )
