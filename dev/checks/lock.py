"""Write the hashes of all pinned packages into the constraints files.

Each file keeps its versions and its first comment. To upgrade a package, change its version, then
run this command. A package index that is reached through a mirror does not appear in the files.
"""

from __future__ import annotations

from pathlib import Path

from checks import environment
from cluster import paths
from cluster.phases import phase
from cluster.shell import capture

FOLDER = paths.REPO / "constraints"
OPTIONS = (
    *("--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"),
    *("--python-version", "3.11", "--quiet"),
)


def write() -> int:
    """Write the hashes; return the exit status."""
    tool = environment.uv()
    with phase("write the hashes of the pinned packages"):
        for file in sorted(FOLDER.glob("*.txt")):
            file.write_text(locked(tool, file), encoding="utf-8")
    return 0


def locked(tool: str, file: Path) -> str:
    """Return a constraints file with hashes."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    comment = "".join(line for line in lines if line.startswith("#"))
    # Without the present hashes: those of a changed version are wrong.
    pins = "\n".join(line.rstrip("\\\n ") for line in lines if line[:1] not in ("#", " ", "\n"))
    return f"{comment}{capture([tool, 'pip', 'compile', *OPTIONS, '-'], stdin=pins)}\n"
