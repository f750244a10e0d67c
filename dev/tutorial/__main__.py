"""``python3 dev/tutorial run``: run the tutorial on an empty local cluster, and write its page.

``page`` writes the page again from the recording in the repository; ``check`` compares it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `tutorial` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import guarded  # noqa: E402
from tutorial import page, prepare, runner  # noqa: E402


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/tutorial", description=__doc__)
    parser.add_argument("command", choices=("run", "page", "check"))
    command = parser.parse_args().command
    if command == "check":
        return page.check()
    if command == "run":
        return guarded("tutorial", _run)
    page.write()
    return 0


def _run() -> None:
    with prepare.empty_cluster() as environment:
        runner.run(environment)
    page.write()


sys.exit(main())
