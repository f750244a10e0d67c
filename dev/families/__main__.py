"""``python dev/families run [FAMILY...]``: measure the families and write the table and its page.

``page`` writes the page from the table; ``check`` compares it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `families` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
for folder in ("crds", "trainer"):
    sys.path.insert(1, str(Path(__file__).resolve().parents[2] / folder))

from families import generate, page  # noqa: E402


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/families", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure the families")
    run.add_argument("names", nargs="*", help="values of model_type (default: all)")
    commands.add_parser("page", help="write the page from the table")
    commands.add_parser("check", help="report a page that differs from the table")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return page.check()
    status = generate.run(arguments.names) if arguments.command == "run" else 0
    return status or page.write()


sys.exit(main())
