"""``python dev/families run``: measure families and models, and write the tables and their page.

``measure [FAMILY...]`` measures families, ``circle [MODEL...]`` runs the circle of published
models, and ``vllm`` reads the registry of vLLM. ``page`` writes the page from the tables; ``check``
compares it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `families` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
for folder in ("crds", "trainer"):
    sys.path.insert(1, str(Path(__file__).resolve().parents[2] / folder))

from families import generate, page, results, vllm  # noqa: E402


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/families", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="measure all, and write the tables and the page")
    measure = commands.add_parser("measure", help="measure families")
    measure.add_argument("names", nargs="*", help="values of model_type (default: all)")
    published = commands.add_parser("circle", help="run the circle of published models")
    published.add_argument("names", nargs="*", help="rows of their table (default: all)")
    commands.add_parser("vllm", help="read the registry of the pinned vLLM")
    commands.add_parser("page", help="write the page from the tables")
    commands.add_parser("check", help="report a page that differs from the tables")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return page.check()
    status = 0
    if arguments.command in ("run", "measure"):
        status |= generate.run(getattr(arguments, "names", []))
    if arguments.command in ("run", "circle"):
        status |= results.run(getattr(arguments, "names", []))
    if arguments.command in ("run", "vllm"):
        vllm.write()
    return page.write() or status


sys.exit(main())
