"""``make screenshots``: pictures of the page on the cluster of ``make run``.

They show the job of ``make run``, and the jobs and the endpoint of a team in demo.yaml.
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
from screenshots import demo, pictures  # noqa: E402

BROWSER = {"chromium": "chromium"}


def main() -> int:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(prog="dev/screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=pictures.FOLDER, metavar="FOLDER")
    chosen = parser.parse_args()
    try:
        packages.ensure_programs(BROWSER)
        demo.ensure()
        pictures.draw(paths.KUBECONFIG, chosen.out, environment.variables())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
