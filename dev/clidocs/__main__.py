"""``python dev/clidocs [--check | --record]``: write docs/reference/cli.md, or compare it.

``--record`` runs the example that takes minutes, and then writes the page.
"""

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `clidocs` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import generated_part  # noqa: E402
from clidocs import page, recording  # noqa: E402


def main() -> int:
    """Write or compare the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/clidocs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="report a page that differs")
    parser.add_argument("--record", action="store_true", help="first, record the output of ftj run")
    options = parser.parse_args()
    if options.record:
        recording.record()
    files = {page.PAGE: page.text()}
    if options.check:
        return generated_part.check(files, "make generate")
    generated_part.write(files)
    return 0


sys.exit(main())
