"""``python3 dev/recording quickstart``: record ``make run`` and draw the README's pictures.

``render`` draws them again from the recording in the repository.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `recording` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from recording import quickstart  # noqa: E402


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="dev/recording", description=__doc__)
    parser.add_argument("command", choices=("quickstart", "render"))
    if parser.parse_args().command == "quickstart" and (status := quickstart.record()) != 0:
        return status
    quickstart.render()
    return 0


sys.exit(main())
