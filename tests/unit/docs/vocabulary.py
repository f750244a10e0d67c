"""The words that the code gives as reasons, and those that docs/troubleshooting.md explains."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = (
    "crds/finetune_api",
    "operator/finetune_operator",
    "trainer/finetune_trainer",
    "trainer/finetune_verify",
)
ROW = re.compile(r"^\| `(\w+)`[ *]*\|(.*)\|$", re.MULTILINE)


@cache
def documented() -> dict[str, list[str]]:
    """Return the reasons that the page explains, each with the other cells of its row."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {reason: [cell.strip() for cell in cells.split("|")] for reason, cells in rows}


def in_code() -> dict[str, str]:
    """Return the reasons that the code gives, each with the module that does.

    Found are the strings that are passed or assigned as ``reason`` (by name, by position or as a
    key), the defaults of that name, and those of the constants that stand there.
    """
    modules = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    constants: dict[str, set[str]] = {}
    positions: dict[str, int] = {}
    for tree in modules.values():
        # A name that several modules have stands for the words of all of them.
        for name, words in _constants(tree):
            constants.setdefault(name, set()).update(words)
        positions.update(_positions(tree))
    found: dict[str, str] = {}
    for name, tree in modules.items():
        for value in _given(tree, positions):
            found |= dict.fromkeys(_words(value, constants), name)
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield the upper-case names of a module with the strings that they stand for."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            value = statement.value
            parts = value.values if isinstance(value, ast.Dict) else getattr(value, "elts", [value])
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper():
                    yield target.id, {word for part in parts for word in _words(part, {})}


def _positions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the functions that take a reason, with its place among the arguments of a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [each.arg for each in node.args.args if each.arg not in ("self", "cls")]
            if "reason" in arguments:
                yield node.name, arguments.index("reason")


def _given(tree: ast.Module, positions: dict[str, int]) -> Iterator[ast.expr]:
    """Yield the expressions whose value is a reason."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="reason"):
                yield node.value
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
                place = positions.get(name)
                if place is not None and place < len(arguments):
                    yield arguments[place]
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "reason":
                        yield value
            case ast.Assign(targets=[target], value=value):
                yield from _assigned(target, value)
            case ast.AnnAssign(target=ast.Name(id="reason"), value=ast.expr() as value):
                yield value
            case ast.FunctionDef():
                yield from _defaults(node)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[ast.expr]:
    """Yield what is assigned to a reason: a variable, an attribute, or the part of a pair."""
    match target, value:
        case ast.Name(id="reason") | ast.Attribute(attr="reason"), _:
            yield value
        case ast.Subscript(slice=ast.Constant(value="reason")), _:
            yield value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for each, part in zip(targets, values, strict=False):
                yield from _assigned(each, part)


def _defaults(node: ast.FunctionDef) -> Iterator[ast.expr]:
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if argument.arg == "reason" and default is not None:
            yield default


def _words(value: ast.expr, constants: dict[str, set[str]]) -> set[str]:
    match value:
        case ast.Constant(value=str() as word):
            return {word} if word else set()
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(value=ast.Name(id=name)):
            return constants.get(name, set())
        case ast.IfExp(body=first, orelse=second):
            return _words(first, constants) | _words(second, constants)
        case ast.BoolOp(values=values):
            return {word for each in values for word in _words(each, constants)}
    return set()
