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
    found = importlib.util.find_spec("unsloth")
    assert found is not None, "Unsloth is not installed"
    assert found.origin is not None
    source = Path(found.origin).parent / "models/loader.py"
    families = frozenset(parse(source.read_text(encoding="utf-8")))
    assert families, f"{source} does not select a model class by model_type"
    return families


def parse(source: str) -> Iterator[str]:
    """Yield the texts that a source compares with ``model_type`` before it selects a class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and any(map(_selects, node.body)):
            test = node.test
            if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name):
                values = [each.value for each in test.comparators if isinstance(each, ast.Constant)]
                yield from map(str, values if test.left.id == "model_type" else [])


def _selects(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(each, ast.Name) and each.id == "dispatch_model" for each in node.targets
    )
