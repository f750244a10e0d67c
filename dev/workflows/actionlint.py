"""actionlint, built once from its Go module in the pinned version, and cached.

It has a module of its own: the programs of the local cluster would be built again with each of its
versions.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from pathlib import Path

from cluster import paths
from cluster.artifacts import golang
from cluster.phases import phase
from cluster.shell import logged

MODULE = Path(__file__).resolve().parent
PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"


def ensure() -> Path:
    """Build the program if it is missing; return its path. Raises ClusterError."""
    digest = hashlib.sha256(platform.machine().encode())
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    program = paths.CACHE / f"actionlint-{digest.hexdigest()[:12]}"
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    with (paths.CACHE / "actionlint.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            with phase("build actionlint"):
                _build(program)
    return program


def _build(program: Path) -> None:
    partial = program.with_name(f"{program.name}.{os.getpid()}.partial")
    command = [
        golang.find(),
        "build",
        "-trimpath",
        "-ldflags",
        "-s -w",
        "-o",
        str(partial),
        PACKAGE,
    ]
    environment = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
    hint = "check that the Go module proxy is reachable, then run the same command again"
    logged(command, paths.LOGS / "actionlint.log", env=environment, cwd=MODULE, hint=hint)
    partial.replace(program)
