"""Where code gives reasons."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENUM = ROOT / "crds" / "finetune_api" / "v1alpha1" / "reasons.py"
PACKAGES = (
    "crds/finetune_api",
    "operator/finetune_operator",
    "trainer/finetune_cli",
    "trainer/finetune_trainer",
    "trainer/finetune_verify",
)
WORD = re.compile(r"^[A-Z][A-Za-z]+$")


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax trees of all packages by path, without the module of the enum."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
        if path != ENUM
    }


def named() -> set[str]:
    """Return the members of ``Reason`` that code names."""
    return {
        node.attr
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Reason"
    }


def literals(tree: ast.Module) -> Iterator[str]:
    """Yield the CamelCase literals that a module passes or assigns as ``reason``."""
    for node in ast.walk(tree):
        values: list[ast.expr | None] = []
        match node:
            case ast.keyword(arg="reason"):
                values = [node.value]
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                values = [value for key, value in pairs if _is_reason(key)]
            case ast.Assign(targets=[target], value=value) if _is_reason(target):
                values = [value]
            case ast.AnnAssign() if _is_reason(node.target):
                values = [node.value]
            case ast.arguments():
                named_ = zip(node.kwonlyargs, node.kw_defaults, strict=True)
                values = [default for argument, default in named_ if argument.arg == "reason"]
        for given in values:
            for part in ast.walk(given) if given is not None else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from WORD.findall(part.value)


def _is_reason(node: ast.expr | None) -> bool:
    match node:
        case ast.Name(id="reason") | ast.Attribute(attr="reason") | ast.Constant(value="reason"):
            return True
        case ast.Subscript(slice=ast.Constant(value="reason")):
            return True
        case ast.Tuple(elts=parts):
            return any(_is_reason(part) for part in parts)
    return False
