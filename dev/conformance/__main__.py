"""``python3 dev/conformance run``: test other versions; record the result in the pages.

``run NAME...`` tests only the components with these names, such as ``Helm`` or ``'Helm 4.3.1'``.
``pages`` writes the pages again from the record in the repository; ``check`` compares them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `conformance` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import guarded  # noqa: E402
from conformance import components, pages, runner  # noqa: E402


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/conformance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="test the components")
    names = sorted({component.name for component in components.ALL})
    run.add_argument("names", nargs="*", help=f"{', '.join(names)} (default: all)")
    commands.add_parser("pages", help="write the pages from the record")
    commands.add_parser("check", help="report pages that differ from the record")
    arguments = parser.parse_args()
    if arguments.command == "run":
        return guarded("conformance", lambda: runner.run(arguments.names))
    if arguments.command == "check":
        return pages.check()
    pages.write()
    return 0


sys.exit(main())
