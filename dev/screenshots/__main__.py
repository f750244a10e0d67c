"""``make screenshots``: pictures of the list of jobs, of a job, and of an answer of its model.

They are of the cluster of ``make run``, or of the one of a kubeconfig.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `screenshots` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from checks import environment  # noqa: E402
from cluster import packages, paths  # noqa: E402
from cluster.errors import ClusterError  # noqa: E402
from screenshots import pictures  # noqa: E402

BROWSER = {"chromium": "chromium"}


def main() -> int:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(prog="dev/screenshots", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, default=paths.KUBECONFIG, metavar="FILE")
    parser.add_argument("--job", default="default/quickstart", metavar="NAMESPACE/NAME")
    parser.add_argument("--question", default="What is Velmora?", metavar="TEXT")
    parser.add_argument("--out", type=Path, default=pictures.FOLDER, metavar="FOLDER")
    chosen = parser.parse_args()
    try:
        packages.ensure_programs(BROWSER)
        pictures.draw(
            chosen.kubeconfig, chosen.job, chosen.question, chosen.out, environment.variables()
        )
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
