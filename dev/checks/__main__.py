"""``python3 dev/checks COMMAND``: run the Makefile target with the name COMMAND."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `checks` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from checks import environment, exhaustive, lock, plan, scan, site  # noqa: E402
from cluster import cli  # noqa: E402

COMMANDS = {
    "venv": environment.ensure,
    "fmt": plan.fmt,
    "check": plan.check,
    "test": plan.test,
    "search": exhaustive.search,
    "e2e": plan.e2e,
    "variants": exhaustive.variants,
    "bench": plan.bench,
    "docs": site.build,
    "lock": lock.write,
    "scan": scan.run,
}


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="dev/checks", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args().command
    return cli.guarded(command, COMMANDS[command])


sys.exit(main())
