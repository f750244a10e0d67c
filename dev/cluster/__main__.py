"""Entry point of ``python3 dev/cluster <command>``."""

import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `cluster` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import main  # noqa: E402

sys.exit(main())
