"""``python dev/dashboards [--check]``: write the dashboards of the chart, or compare them."""

import argparse
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `dashboards` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dashboards import fleet, job, serving, showback  # noqa: E402
from dashboards.render import render  # noqa: E402

DASHBOARDS = (fleet.FLEET, job.JOB_BOARD, serving.SERVING, showback.SHOWBACK)
FOLDER = Path(__file__).resolve().parents[2] / "charts/finetune-operator/files/dashboards"


def main() -> int:
    """Write or compare the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="report files that differ")
    check = parser.parse_args().check
    files = {FOLDER / f"{board.name}.json": render(board) for board in DASHBOARDS}
    stale = [path for path in FOLDER.glob("*.json") if path not in files]
    stale += [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"{path.name} is not up to date: run make generate", file=sys.stderr)
        return bool(stale)
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for path, text in files.items():
        path.write_text(text)
    return 0


sys.exit(main())
