"""``python dev/ftjarchive [--url URL] [--output FOLDER]``: write the archive for this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `ftjarchive` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.path[1:1] = [str(Path(__file__).resolve().parents[2] / name) for name in ("crds", "trainer")]

from cluster import paths  # noqa: E402
from cluster.cli import guarded  # noqa: E402
from ftjarchive import archive, krew  # noqa: E402


def main() -> int:
    """Write archive and manifest; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/ftjarchive", description=__doc__)
    parser.add_argument(
        "--url",
        default="https://example.com/finetune-operator",
        help="folder from which users download the archives",
    )
    parser.add_argument("--output", type=Path, default=paths.REPO / "build" / "ftj")
    options = parser.parse_args()

    def run() -> None:
        made = archive.make(options.output)
        manifest = krew.write(options.output, options.url)
        print(f"{made} ({made.stat().st_size >> 20} MiB), {manifest}")

    return guarded("ftjarchive", run)


sys.exit(main())
