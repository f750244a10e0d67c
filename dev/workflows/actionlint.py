"""actionlint, built once from its Go module in the pinned version, and cached."""

from __future__ import annotations

from pathlib import Path

from cluster import paths
from cluster.artifacts import gomodule
from cluster.artifacts.gomodule import Module

MODULE = Module(
    path="github.com/rhysd/actionlint",
    version="v1.7.10",
    packages={"actionlint": "./cmd/actionlint"},
)


def ensure() -> Path:
    """Build the program if it is missing; return its path. Raises ClusterError."""
    folder = paths.CACHE / f"actionlint-{MODULE.version}"
    gomodule.build(MODULE, folder)
    return folder / "actionlint"
