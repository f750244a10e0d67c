"""Check the requirements of the machine before a long build."""

from __future__ import annotations

import os
import shutil

from cluster import paths
from cluster.errors import Unsupported

GIB = 1024**3
# Measured: binaries and Go's caches 9, images in buildah's storage, the registry and containerd 24.
FIRST_DISK = 36 * GIB
LATER_DISK = 8 * GIB
MEMORY = 7 * GIB


def check() -> None:
    """Check disk and memory. Raises Unsupported with the numbers."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    first = not paths.CONTAINERD_ROOT.exists()
    needed = FIRST_DISK if first else LATER_DISK
    free = shutil.disk_usage(paths.CACHE).free
    if free < needed:
        raise Unsupported(
            f"{paths.CACHE} has {free // GIB} GiB of free disk, but requires {needed // GIB} GiB",
            hint="free disk space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory < MEMORY:
        raise Unsupported(
            f"the machine has {memory / GIB:.1f} GiB of memory, but the cluster requires "
            f"{MEMORY // GIB} GiB",
            hint="use your own cluster: make run CLUSTER=current",
        )
