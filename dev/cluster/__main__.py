"""Entry point of ``python3 dev/cluster <command>``."""

import sys
from pathlib import Path

# Python puts this folder on the path; its parent is needed to import the package `cluster`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import main  # noqa: E402

sys.exit(main())
