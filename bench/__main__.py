"""``python bench COMMAND [--write]``: run a benchmark and print the results.

--write also puts them into docs/reference/benchmarks.md. ``all`` runs every benchmark so.
"""

import argparse
import importlib
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The interpreter adds this folder to the path; imports need the folders above it.
sys.path[0:1] = [
    str(REPOSITORY),
    *(str(REPOSITORY / name) for name in ("crds", "dev", "operator", "trainer")),
]

DOCUMENT = REPOSITORY / "docs" / "reference" / "benchmarks.md"
COMMANDS = {
    "estimate": "the memory formula compared with traced training steps; needs no GPU",
    "merge": "the merge compared with a copy of the same bytes and with PEFT",
    "publish": "publishing compared with crane and boto3 on the same servers",
    "trainer": "the trainer compared with plain scripts; packing, start, checkpoints",
    "scale": "run many jobs at once to Ready",
    "idle": "cost of many training jobs without changes",
    "budgets": "profiles, budgets and records of usage: their cost for operator and admission",
    "rejections": "correct models and weak adapters on simulated servers, verified",
    "starts": "correct models in real vLLM on a CPU, each verified by the verifier of its pod",
    "endpoint": "a streamed event through the gate of a shared endpoint, and through a byte copy",
    "adapters": "real vLLM behind the gate, and next to a merged model, on a CPU",
    "tenants": "memory and fairness while one tenant floods the operator",
    "soak": "random user actions while a replica is killed every 20 seconds",
    "quickstart": "run the quickstart once on the local cluster",
    "shared": "eight jobs on one shared endpoint, and swaps under load, on the local cluster",
    "verify": "rollouts that must be verified and faults that must not, on the local cluster",
}
"""In the order of ``all``: the last three start the cluster, which would disturb the others."""
MODULES = {
    "merge": "merge.merge",
    "endpoint": "endpoint.events",
    "adapters": "endpoint.adapters",
    **{name: f"simulated.{name}" for name in ("scale", "idle", "budgets", "tenants", "soak")},
    **{name: f"local_cluster.{name}" for name in ("quickstart", "shared", "verify")},
}
"""Where a benchmark is, if not in the module of its name."""


def main() -> int:
    """Run a benchmark and report the results; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--write", action="store_true", help="write docs/reference/benchmarks.md"
        )
        # Each imports other parts of the tests: import the requested one only.
        if name in sys.argv[1:2]:
            module = importlib.import_module(f"bench.{MODULES.get(name, name)}")
            getattr(module, "add_arguments", lambda _: None)(command)
    commands.add_parser("all", help="run all of them, one after the other, with --write")
    options = parser.parse_args()
    if options.command == "all":
        runs = [
            subprocess.run([sys.executable, __file__, name, "--write"], check=False)
            for name in COMMANDS
        ]
        return int(any(run.returncode for run in runs))
    # On SIGTERM, stop the started processes (operators, etcd, kubectl proxy) by unwinding.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    measured = module.measure(options)
    report = f"Machine: {importlib.import_module('bench.machine').description()}.\n\n{measured}"
    print(report)
    if options.write:
        _write(options.command, report)
    return 0


def _write(name: str, text: str) -> None:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


sys.exit(main())
