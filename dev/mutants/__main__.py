"""Inject a seeded sample of small faults into the pure packages; print the undetected ones.

Exit with 1 if the tests detected fewer than 93 % of the mutants that ran.
"""

from __future__ import annotations

import argparse
import random
import sys
import tomllib
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `mutants` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mutants import pool  # noqa: E402

TARGET = 0.93
EQUIVALENT = Path(__file__).parent / "equivalent.toml"


def main() -> int:
    """Run a sample; return the exit code."""
    options = _options()
    candidates = pool.candidates(options.module)
    equivalents = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["reasons"]
    stale = set(equivalents) - {candidate.mutant.name for candidate in candidates}
    if stale and not options.module:
        print(f"{EQUIVALENT} names mutants that no longer exist:", *sorted(stale), sep="\n  ")
        return 1
    tested = [candidate for candidate in candidates if candidate.mutant.name not in equivalents]
    sample = random.Random(options.seed).sample(tested, min(options.count, len(tested)))
    print(
        f"{len(candidates)} mutants, {len(candidates) - len(tested)} of them equivalent; "
        f"a sample of {len(sample)} runs, seed {options.seed}",
        flush=True,
    )
    survivors, run = pool.run(sample, seconds=options.minutes * 60)
    for mutant in sorted(survivors, key=lambda survivor: (survivor.module, survivor.line)):
        print(f"survived  line {mutant.line}  {mutant.name}")
    killed = run - len(survivors)
    print(f"{killed} of {run} mutants killed: {killed / max(1, run):.1%} (target {TARGET:.0%})")
    if run < len(sample):
        print(f"time is up: {len(sample) - run} mutants of the sample did not run")
    return int(killed < TARGET * run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev/mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default 1)")
    parser.add_argument("--count", type=int, default=150, help="mutants in the sample")
    parser.add_argument("--minutes", type=float, default=10, help="no mutant starts after this")
    parser.add_argument("--module", default="", help="only modules whose dotted name starts so")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
