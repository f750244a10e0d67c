"""``python dev/clidocs [--check]``: write docs/reference/cli.md, or compare it."""

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `clidocs` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import generated_part  # noqa: E402
from clidocs import page  # noqa: E402


def main() -> int:
    """Write or compare the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/clidocs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="report a page that differs")
    files = {page.PAGE: page.text()}
    if parser.parse_args().check:
        return generated_part.check(files, "make generate")
    generated_part.write(files)
    return 0


sys.exit(main())
