"""What the machine must have before hours are spent on it."""

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
    """Raises Unsupported with the numbers."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    first = not paths.CONTAINERD_ROOT.exists()
    needed = FIRST_DISK if first else LATER_DISK
    free = shutil.disk_usage(paths.CACHE).free
    if free < needed:
        raise Unsupported(
            f"{free // GIB} GiB are free below {paths.CACHE}, {needed // GIB} GiB are needed",
            hint="free some, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory < MEMORY:
        raise Unsupported(
            f"the machine has {memory / GIB:.1f} GiB of memory, {MEMORY // GIB} are needed",
            hint="use your own cluster: make run CLUSTER=current",
        )
