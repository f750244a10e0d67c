"""The operator's structure, counted: a stage is data, the status has one reader, no hub grows.

The limits are those that keep the next feature a small change in an obvious place
(docs/development/extending.md). To compare two checkouts, run this file as a program: it prints the
counts of the folder that it gets, or of its own checkout.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.job import FineTuneJobStatus

ROOT = Path(__file__).parents[3]
PACKAGE = "finetune_operator"
STAGES = frozenset({"prepare", "train", "merge", "publish", "serve"})
TABLE = "objects/stages.py"
STATUS_VIEW = "objects/status_view.py"
FIELDS = {info.alias or name for name, info in FineTuneJobStatus.model_fields.items()}
FIELDS -= {"conditions", "observedGeneration"}
"""Fields of the status of a FineTuneJob that no other kind has."""
COMMAND = "vllm"
"""``vllm serve`` is a command, not a stage."""


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield the operator's modules: path below the package, and syntax tree."""
    package = root / "operator" / PACKAGE
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), ast.parse(path.read_text())


def lines_with_stages(root: Path) -> Counter[str]:
    """Return how many lines of each module name a stage: a string, a constant or an attribute."""
    lines_of: Counter[str] = Counter()
    for name, tree in modules(root):
        commands = {
            id(word)
            for words in ast.walk(tree)
            if isinstance(words, ast.List)
            and any(isinstance(word, ast.Constant) and word.value == COMMAND for word in words.elts)
            for word in words.elts
        }
        lines = {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.expr) and id(node) not in commands and _names_a_stage(node)
        }
        if lines and name != TABLE:
            lines_of[name] = len(lines)
    return lines_of


def _names_a_stage(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str(word)):
            return word in STAGES
        case ast.Attribute(attr=word) | ast.Name(id=word):
            return word.isupper() and word.lower() in STAGES
    return False


def readers_of_status(root: Path) -> list[str]:
    """Return the modules that take a field of a job's status by its name."""
    return [
        name
        for name, tree in modules(root)
        if name != STATUS_VIEW and any(_reads_status(node) for node in ast.walk(tree))
    ]


def _reads_status(node: ast.AST) -> bool:
    """Report whether a node is ``….get("field")`` of something that is called a status."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=whole, attr="get"), args=[ast.Constant(value=str(field)), *_]
        ):
            return field in FIELDS and "status" in ast.unparse(whole)
    return False


def imports(root: Path) -> Counter[str]:
    """Return how many other modules of the operator each module imports."""
    package = root / "operator" / PACKAGE
    counts: Counter[str] = Counter()
    for name, tree in modules(root):
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                folder = package.joinpath(*str(node.module).split(".")[1:])
                modules_of_folder = {path.stem for path in folder.glob("*")}
                for alias in node.names:
                    names_module = alias.name in modules_of_folder
                    imported.add(f"{node.module}.{alias.name}" if names_module else node.module)
        counts[name] = len(imported)
    return counts


def literal_reasons(root: Path) -> set[str]:
    """Return the reasons that are written as strings, of those that are several words."""
    reasons = {str(reason) for reason in Reason if sum(map(str.isupper, reason)) > 1}
    return {
        node.value
        for _, tree in modules(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in reasons
    }


def test_few_lines_name_a_stage_outside_of_the_table() -> None:
    lines = lines_with_stages(ROOT)
    assert sum(lines.values()) <= 12, lines
    assert len(lines) <= 4, lines


def test_only_the_status_view_reads_the_status() -> None:
    assert readers_of_status(ROOT) == []


def test_no_module_knows_most_of_the_others() -> None:
    counts = imports(ROOT)
    assert {name: count for name, count in counts.items() if count > 14} == {}


def test_reasons_are_those_of_the_api() -> None:
    others = {"DataReady", "FailedCreate"}
    assert literal_reasons(ROOT) == others, "a type of a condition, and an event of Kubernetes"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    stages = lines_with_stages(folder)
    print(f"lines that name a stage: {sum(stages.values())} in {len(stages)} modules", dict(stages))
    print("modules that read the status:", readers_of_status(folder))
    print("most imports:", imports(folder).most_common(8))
