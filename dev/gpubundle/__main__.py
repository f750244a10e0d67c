"""``python3 dev/gpubundle [--python 3.12] [--cuda 130]``: write build/gpu-bundle.tar.xz."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `gpubundle` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import guarded  # noqa: E402
from gpubundle import archive  # noqa: E402


def main() -> int:
    """Write the bundle; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/gpubundle", description=__doc__)
    parser.add_argument("--python", default="3.12", help="version of Python of the machine")
    parser.add_argument("--cuda", default="130", help="version of CUDA of its PyTorch: 12.8 is 128")
    options = parser.parse_args()
    return guarded("gpu-bundle", lambda: archive.make(python=options.python, cuda=options.cuda))


sys.exit(main())
