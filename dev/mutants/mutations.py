"""The mutations of a module: small faults, one at a time, in its syntax tree. Pure.

A mutation changes one operator, condition, constant, call or statement. Docstrings, annotations and
sentences are left alone: no test should repeat a message word by word.
"""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
CALLS = {"any": "all", "all": "any", "min": "max", "max": "min"}
LONGEST = 70
"""Characters of a node's text in a mutant's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault: module, line, the node's text before and after, and its number in the module."""

    module: str
    line: int
    number: int
    before: str
    after: str
    function: str
    """Qualified name of the outermost function whose body has the fault, empty if none has it."""

    occurrence: int
    """Number of the fault among the equal ones of the function, from 1."""

    @property
    def name(self) -> str:
        """The mutant's name in reports and in the list of equivalents, free of line numbers."""
        place = f"{self.module}.{self.function}" if self.function else self.module
        number = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{place}: {self.before} -> {self.after}{number}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Slot:
    """A place in the tree that holds a node: a field of its parent, or an item of a list there."""

    parent: ast.AST
    field: str
    index: int | None
    function: str

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(module: str, source: str) -> list[Mutant]:
    """Return every mutant of a module."""
    all_mutants, equal = [], Counter[tuple[str, str, str]]()
    for number, (slot, node, changed) in enumerate(_mutations(ast.parse(source))):
        before, after = _short(node), _short(changed)
        equal[slot.function, before, after] += 1
        all_mutants.append(
            Mutant(
                module=module,
                line=getattr(node, "lineno", 0),
                number=number,
                before=before,
                after=after,
                function=slot.function,
                occurrence=equal[slot.function, before, after],
            )
        )
    return all_mutants


def mutated(source: str, number: int) -> str:
    """Return a module's source with the mutation of this number."""
    tree = ast.parse(source)
    for index, (slot, _, changed) in enumerate(_mutations(tree)):
        if index == number:
            slot.put(ast.fix_missing_locations(changed))
            return ast.unparse(tree)
    raise IndexError(number)


def functions(
    parent: ast.AST, scope: str = ""
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yield the outermost functions of a module with their qualified names."""
    for child in ast.iter_child_nodes(parent):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, scope + child.name
        else:
            inner = f"{child.name}." if isinstance(child, ast.ClassDef) else ""
            yield from functions(child, scope + inner)


def _mutations(tree: ast.Module) -> Iterator[tuple[_Slot, ast.AST, ast.AST]]:
    """Yield the place of each mutation, the node there, and the node that replaces it."""
    for slot, node in list(_slots(tree)):
        for changed in _changes(node):
            yield slot, node, changed


def _slots(parent: ast.AST, function: str = "", scope: str = "") -> Iterator[tuple[_Slot, ast.AST]]:
    """Yield the nodes that may be mutated, outermost first, with their places.

    ``function``: the outermost function around them; ``scope``: the classes outside of it.
    """
    if isinstance(parent, ast.ClassDef):
        scope += f"{parent.name}."
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        inner = function
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef) and field == "body":
            inner = function or scope + parent.name
        nodes = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, node in nodes:
            if not isinstance(node, ast.AST) or _is_text(node):
                continue
            yield _Slot(parent=parent, field=field, index=index, function=inner), node
            yield from _slots(node, inner, scope)


def _is_text(node: ast.AST) -> bool:
    """Report whether a node is a docstring, a message, or an import."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that a mutation puts in the place of a node."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=comparators):
            if replaced := COMPARISONS.get(type(operator)):
                yield ast.Compare(left=left, ops=[replaced()], comparators=comparators)
        case ast.BoolOp(op=operator, values=values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield ast.BoolOp(op=other, values=values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            name = ast.Name(id="bool", ctx=ast.Load())
            yield ast.Call(func=name, args=[operand], keywords=[])
        case ast.BinOp(left=left, op=operator, right=right):
            if replaced_operator := ARITHMETIC.get(type(operator)):
                yield ast.BinOp(left=left, op=replaced_operator(), right=right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in CALLS:
            function = ast.Name(id=CALLS[name], ctx=ast.Load())
            yield ast.Call(func=function, args=args, keywords=keywords)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int(value)) | ast.Constant(value=float(value)):
            yield ast.Constant(value=value + 1)
        case ast.Constant(value=str(value)) if value and " " not in value:
            yield ast.Constant(value=value + "X")
        case ast.If(body=body, orelse=orelse):
            yield ast.If(test=ast.Constant(value=True), body=body, orelse=orelse)
            yield ast.If(test=ast.Constant(value=False), body=body, orelse=orelse)
        case ast.IfExp(body=expression, orelse=otherwise):
            yield expression
            yield otherwise
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(value=ast.Constant(value=None))
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield ast.Pass()
        case _:
            pass


def _short(node: ast.AST) -> str:
    """Return a node's text on one line."""
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
