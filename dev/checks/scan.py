"""Scan all pinned packages for known vulnerabilities. This needs a network.

It is not part of ``make test``: the result depends on the day, not on the change. pip-audit runs in
an environment of its own, and reads only the files.
"""

from __future__ import annotations

import subprocess

from checks import environment
from cluster import paths

TOOL = "pip-audit==2.10.1"
OPTIONS = ("--disable-pip", "--require-hashes", "--progress-spinner=off")


def run() -> int:
    """Scan each constraints file; return 1 if one of them has a vulnerable package."""
    tool = environment.uv()
    files = sorted((paths.REPO / "constraints").glob("*.txt"))
    codes = [
        subprocess.run(
            [tool, "tool", "run", "--from", TOOL, "pip-audit", *OPTIONS, "-r", str(file)],
            cwd=paths.REPO,
            check=False,
        ).returncode
        for file in files
    ]
    return int(any(codes))
