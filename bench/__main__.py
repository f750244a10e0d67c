"""``python bench COMMAND [--write]``: measure, and print the figures.

--write puts them into docs/reference/benchmarks.md as well.
"""

import argparse
import importlib
import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The interpreter puts this folder itself on the path; packages are found from these.
sys.path[0:1] = [
    str(REPOSITORY),
    *(str(REPOSITORY / name) for name in ("crds", "dev", "operator", "trainer")),
]

DOCUMENT = REPOSITORY / "docs" / "reference" / "benchmarks.md"
COMMANDS = {
    "quickstart": "the quickstart, once, on the local cluster",
    "scale": "many jobs at once, through the whole life",
    "idle": "many jobs that train, and nothing happens",
    "merge": "the merge against a copy of the same bytes, and against PEFT's",
    "trainer": "the trainer against plain scripts, packing against padding, start, checkpoints",
    "verify": "honest rollouts that must pass, and faults that must not, on the local cluster",
    "soak": "users that never rest, and a replica killed every 20 seconds",
}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--write", action="store_true", help="write docs/reference/benchmarks.md"
        )
        # Each needs other parts of the tests; one that is not measured is not imported.
        if name in sys.argv[1:2]:
            importlib.import_module(f"bench.{name}").add_arguments(command)
    options = parser.parse_args()
    # Told to end, it takes down what it has started: operators, etcd, `kubectl proxy`.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    measured = importlib.import_module(f"bench.{options.command}").measure(options)
    text = f"Machine: {importlib.import_module('bench.machine').words()}.\n\n{measured}"
    print(text)
    if options.write:
        _write(options.command, text)


def _write(name: str, text: str) -> None:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


main()
